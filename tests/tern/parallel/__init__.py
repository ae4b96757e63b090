"""Tests of `tern.parallel`."""
