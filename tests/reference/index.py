"""Index of `tests`."""

import numpy as np

from index.collection import Collection


def answer(hits) -> tuple[list[list[str]], np.ndarray]:
    return [[hit.id for hit in line] for line in hits], np.array([[hit.score for hit in line] for line in hits])


def slow(collection: Collection, queries: np.ndarray, k: int, keep=None) -> list[list[str]]:
    """The best k by sorting every inner product in float64, one query at a time."""
    lines = []
    for query in queries.astype(np.float64):
        scored = [
            (-float(query @ vector), name)
            for name, vector in zip(collection.ids, collection.vectors.astype(np.float64), strict=True)
            if keep is None or name in keep
        ]
        lines.append([name for _, name in sorted(scored)[:k]])
    return lines
