"""Tests of `extractors.text`."""
