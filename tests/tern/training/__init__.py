"""Sub-package tests.tern.training."""
