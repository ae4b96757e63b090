"""Tests of `extractors.bottom_up`."""
