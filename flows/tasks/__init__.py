"""Sub-package `flows.tasks`."""
