"""Sub-package tests."""
