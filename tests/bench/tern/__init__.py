"""Sub-package tests.bench.tern.step."""
