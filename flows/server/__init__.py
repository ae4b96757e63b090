"""Sub-package `flows.server`."""
