"""Sub-package tests.index."""
