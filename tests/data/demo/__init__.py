"""Tests of `data.demo`."""
