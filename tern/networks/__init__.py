"""Sub-package `tern.networks`."""
