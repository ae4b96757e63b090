"""Sub-package tests.pipeline.pages."""
