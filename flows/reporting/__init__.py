"""Sub-package `flows.reporting`."""
