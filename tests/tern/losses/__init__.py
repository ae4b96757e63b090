"""Tests of `tern.losses`."""
