"""Tests of `tern.training`."""
