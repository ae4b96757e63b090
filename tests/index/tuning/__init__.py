"""Sub-package tests.index.tuning."""
