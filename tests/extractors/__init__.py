"""Tests of `extractors`."""
