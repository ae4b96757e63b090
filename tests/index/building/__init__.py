"""Tests of `index.building`."""
