"""Sub-package tests.index.building."""
