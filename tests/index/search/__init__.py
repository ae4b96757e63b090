"""Sub-package tests.index.search."""
