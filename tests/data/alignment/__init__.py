"""Tests of `data.alignment`."""
