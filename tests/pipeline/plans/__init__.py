"""Sub-package tests.pipeline.plans."""
