"""Sub-package tests.reference."""
