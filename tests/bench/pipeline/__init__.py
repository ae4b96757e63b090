"""Benchmarks of `pipeline`: the search service under load."""
