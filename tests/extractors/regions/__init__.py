"""Sub-package tests.extractors.regions."""
