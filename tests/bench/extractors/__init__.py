"""Sub-package tests.bench.extractors."""
