"""Pooled of `tern`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.store import Store


def pool_features(
    store: Store, ids: Sequence[str], how: Literal["mean", "max", "first", "scored"] = "mean"
) -> np.ndarray:
    """The mean, maximum, first row or mean by `scores` of each item: (b, d) float32; zeros for an item without rows."""
    lengths, rows = store.lengths(ids), store.read("features", ids).astype(np.float32)
    scores = store.read("scores", ids) if how == "scored" else np.zeros(len(rows))
    out = np.zeros((len(ids), rows.shape[1]), np.float32)
    ends = np.cumsum(lengths)[:-1]
    for place, (part, weights) in enumerate(zip(np.split(rows, ends), np.split(scores, ends), strict=True)):
        if len(part):
            if how == "first":
                out[place] = part[0]
            elif how == "scored":  # imported regions may have no scores: then each counts the same
                out[place] = np.average(part, axis=0, weights=weights if weights.any() else None)
            else:
                out[place] = getattr(part, how)(axis=0)
    return out
