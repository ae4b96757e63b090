"""Tests of `pipeline.stages`."""
