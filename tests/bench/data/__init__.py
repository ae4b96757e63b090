"""Sub-package tests.bench.data."""
