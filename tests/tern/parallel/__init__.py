"""Sub-package tests.tern.parallel."""
