"""The interchange formats by name, and what a file or folder looks like: docs/FORMATS.md has them as a table."""
