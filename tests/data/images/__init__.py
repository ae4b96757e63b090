"""Tests of `data.images`."""
