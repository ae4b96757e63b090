"""Sub-package tests.pipeline.runs."""
