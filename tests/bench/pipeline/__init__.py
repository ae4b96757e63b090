"""Benchmarks of `pipeline`: the search service under load, and a plain service to compare it with."""
