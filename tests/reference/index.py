"""Reference of the search: sort all inner products."""

from collections.abc import Collection as Ids
from collections.abc import Sequence
from typing import Any

import numpy as np


def split_hits(hits: Sequence[Sequence[Any]]) -> tuple[list[list[str]], np.ndarray]:
    """Return ids and scores (q, k) of the hits of q queries."""
    return [[hit.id for hit in line] for line in hits], np.array([[hit.score for hit in line] for line in hits])


def exact_ids(collection: Any, queries: np.ndarray, k: int, allowed_ids: Ids[str] | None = None) -> list[list[str]]:
    """Return the ids of the best k of a collection (`ids`, `vectors`) by sorting all inner products in float64."""
    lines = []
    for query in queries.astype(np.float64):
        scored = [
            (-float(query @ vector), name)
            for name, vector in zip(collection.ids, collection.vectors.astype(np.float64), strict=True)
            if allowed_ids is None or name in allowed_ids
        ]
        lines.append([name for _, name in sorted(scored)[:k]])
    return lines
