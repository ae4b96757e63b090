"""Sub-package tests.tern.losses."""
