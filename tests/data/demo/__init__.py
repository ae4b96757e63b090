"""Sub-package tests.data.demo."""
