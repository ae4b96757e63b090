"""Tests of `index.quality`."""
