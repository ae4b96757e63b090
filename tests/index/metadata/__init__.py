"""Tests of `index.metadata`."""
