"""Sub-package tests.data."""
