"""Tests of `data.store` and `data.manifest`."""
