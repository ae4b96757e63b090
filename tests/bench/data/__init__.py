"""Benchmarks of `data`: reading batches from a store, and reading a million items."""
