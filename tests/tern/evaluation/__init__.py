"""Tests of `tern.evaluation`."""
