"""Sub-package tests.bench."""
