"""Sub-package `index.metadata`."""
