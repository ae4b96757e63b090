"""Sub-package tests.data.datasets."""
