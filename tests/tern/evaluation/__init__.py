"""Tests of `tern/evaluation`."""
