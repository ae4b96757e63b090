"""Tests of `tern/training`."""
