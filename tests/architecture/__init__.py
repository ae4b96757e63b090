"""Sub-package tests.architecture."""
