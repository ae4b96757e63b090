"""Sub-package tests.tern.networks."""
