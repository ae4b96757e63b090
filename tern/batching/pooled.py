"""Pooled features of stored items, one row per item. Used by the normalization of the shortcut and by the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.store import Store

Pooling = Literal["mean", "max", "first", "scored"]


def pool_features(store: Store, ids: Sequence[str], method: Pooling = "mean") -> np.ndarray:
    """Pool the features of stored items.

    Args:
        store: Store of regions or tokens.
        ids: b item ids.
        method: Mean, maximum, first row, or mean weighted by `scores`.

    Returns:
        (b, d) float32; zeros for an item without rows.
    """
    lengths, rows = store.lengths(ids), store.read("features", ids).astype(np.float32)
    scores = store.read("scores", ids) if method == "scored" else np.zeros(len(rows))
    out = np.zeros((len(ids), rows.shape[1]), np.float32)
    ends = np.cumsum(lengths)[:-1]
    for index, (part, weights) in enumerate(zip(np.split(rows, ends), np.split(scores, ends), strict=True)):
        if not len(part):
            continue
        if method == "first":
            out[index] = part[0]
        elif method == "scored":  # imported regions may have no scores; then all have equal weights
            out[index] = np.average(part, axis=0, weights=weights if weights.any() else None)
        else:
            out[index] = getattr(part, method)(axis=0)
    return out
