"""Tests of `data.datasets`."""
