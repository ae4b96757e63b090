"""Benchmarks of `index`: queries, updates, large indexes, and other libraries on the same vectors."""
