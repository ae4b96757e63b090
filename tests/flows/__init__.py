"""Sub-package tests.flows."""
