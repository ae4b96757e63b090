"""Sub-package tests.extractors.bottom_up."""
