"""Tests of `extractors.regions` and `extractors.nn`."""
