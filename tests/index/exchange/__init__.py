"""Tests of `index.exchange`."""
