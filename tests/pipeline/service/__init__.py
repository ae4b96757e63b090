"""Tests of `pipeline.service`."""
