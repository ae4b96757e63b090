"""Sub-package tests.data.images."""
