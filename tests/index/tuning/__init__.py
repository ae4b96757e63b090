"""Tests of `index.tuning`."""
