"""Sub-package tests.index.ivf."""
