"""Sub-package tests.index.quality."""
