"""Sub-package tests.index.versions."""
