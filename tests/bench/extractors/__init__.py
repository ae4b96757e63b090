"""Benchmarks of `extractors`: CPU time per image and per caption."""
