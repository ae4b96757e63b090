"""Sub-package tests.pipeline."""
