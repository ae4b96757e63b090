"""Formats of region features by name, and how to detect them (docs/reference/region-formats.md)."""
