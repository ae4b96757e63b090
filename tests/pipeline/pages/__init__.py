"""Tests of `pipeline.pages`."""
