"""Sub-package tests.data.exchange."""
