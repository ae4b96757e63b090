"""Sub-package tests.pipeline.stages."""
