"""Tests of `index.versions`."""
