"""Benchmarks: `python -m tests.bench NAME` prints a table of costs; no test depends on a time."""
