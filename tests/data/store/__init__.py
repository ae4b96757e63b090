"""Sub-package tests.data.store."""
