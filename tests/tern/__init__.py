"""Sub-package tests.tern."""
