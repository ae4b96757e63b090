"""Tests of `tern/losses`."""
