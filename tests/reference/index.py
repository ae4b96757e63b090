"""Reference of the search: sort all inner products; of reranking: loop over all pairs of row vectors."""

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


def align_slowly(query: Any, items: Any, number: int) -> float:
    """Return the alignment score of a query of one item (`codes`, `weights`, `lengths`) and an item, in a loop."""
    start = int(items.lengths[:number].sum())
    rows = range(start, start + int(items.lengths[number]))
    cosines = [[float(items.codes[i] / 127.0 @ (one / 127.0)) for one in query.codes] for i in rows]
    from_query = sum(float(w) * max(line[j] for line in cosines) for j, w in enumerate(query.weights))
    from_item = sum(float(items.weights[i]) * max(line) for i, line in zip(rows, cosines, strict=True))
    return (from_query + from_item) / 2


def rerank_exactly(
    collection: Any, queries: np.ndarray, query_rows: Any, rows: Any, weight: float, rerank: int, k: int
) -> tuple[list[list[str]], np.ndarray]:
    """Return ids and combined scores (q, k) of the best k of a collection with row vectors (`rows`), by loops."""
    all_ids, all_scores = [], []
    for number, query in enumerate(queries.astype(np.float64)):
        cosines = collection.vectors.astype(np.float64) @ query
        order = np.argsort(-cosines, kind="stable").tolist()
        one = query_rows.select([number])
        combined = {i: (1 - weight) * cosines[i] + weight * align_slowly(one, rows, i) for i in order[: max(k, rerank)]}
        order = [*sorted(order[:rerank], key=lambda i: -combined[i]), *order[rerank:]][:k]
        all_ids.append([collection.ids[i] for i in order])
        all_scores.append([combined[i] for i in order])
    return all_ids, np.array(all_scores)
