"""Tests of `index.search`."""
