"""Tests of `tern`."""
