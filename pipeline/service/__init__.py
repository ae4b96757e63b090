"""Sub-package `pipeline.service`."""
