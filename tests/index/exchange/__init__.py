"""Sub-package tests.index.exchange."""
