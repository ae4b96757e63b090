"""Benchmarks of `tern`: training steps, losses, metrics and baselines."""
