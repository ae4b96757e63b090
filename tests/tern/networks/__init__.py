"""Tests of `tern.networks`."""
