"""Sub-package tests.index.metadata."""
