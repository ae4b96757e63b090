"""Sub-package `data.demo.drawing`."""
