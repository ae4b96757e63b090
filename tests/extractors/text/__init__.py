"""Sub-package tests.extractors.text."""
