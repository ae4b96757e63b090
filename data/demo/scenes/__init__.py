"""Sub-package `data.demo.scenes`."""
