"""Sub-package tests.helpers."""
