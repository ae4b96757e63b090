"""Sub-package `tern.batching`."""
