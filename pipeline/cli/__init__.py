"""Sub-package `pipeline.cli`."""
