"""Sub-package `index.ivf`."""
