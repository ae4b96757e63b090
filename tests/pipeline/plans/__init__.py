"""Tests of `pipeline.plans`."""
