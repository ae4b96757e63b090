"""Tests of `tern/networks`."""
