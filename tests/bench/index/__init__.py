"""Sub-package tests.bench.index.rivals."""
