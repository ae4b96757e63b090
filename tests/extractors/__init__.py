"""Sub-package tests.extractors."""
