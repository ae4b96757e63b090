"""Recipes without what only the machine decides: whether two extractors are the same for a model."""

from __future__ import annotations

from data.manifest import Recipe

MACHINE_KEYS = frozenset({"device", "dtype", "runtime", "full_precision", "batch_size"})


def machine_independent(recipe: Recipe) -> Recipe:
    """Return a recipe without what a machine decides: device, number type, runtime and batch size.

    Extractors whose recipes are equal then give the same features up to rounding, so that a model reads both.
    """
    return {key: value for key, value in recipe.items() if key not in MACHINE_KEYS}
