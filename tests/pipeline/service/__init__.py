"""Sub-package tests.pipeline.service."""
