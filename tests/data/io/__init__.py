"""Tests of `data.io`."""
