"""Sub-package tests.tern.evaluation."""
