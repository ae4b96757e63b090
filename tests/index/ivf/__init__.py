"""Tests of `index.ivf`."""
