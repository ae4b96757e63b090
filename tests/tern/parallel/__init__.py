"""Tests of `tern/parallel`."""
