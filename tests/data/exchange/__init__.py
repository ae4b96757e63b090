"""Tests of `data.exchange` and `data.formats`."""
