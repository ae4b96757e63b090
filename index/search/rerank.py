"""Reranking: order the best hits of the global search by the combined score of both stages.

Shapes: q queries, m candidates per query.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.alignment import RowVectors, combine_scores, compute_alignment_scores
from data.io import digest


@dataclass(frozen=True)
class Reranking:
    """What the second stage of a search needs besides the row vectors of the items."""

    query_rows: RowVectors
    """row vectors of the q queries"""
    alignment_weight: float
    """weight of the alignment score in the combined score"""
    depth: int
    """number of best hits of the global search that are ordered by the combined score"""

    @property
    def digest(self) -> str:
        """12 hex digits of the row vectors, the weight and the depth."""
        return digest([self.alignment_weight, self.depth, self.query_rows.digest])

    def apply(
        self, scores: np.ndarray, keys: np.ndarray, read_rows: Callable[[np.ndarray], RowVectors]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rerank the hits of all queries; hits after number `depth` get their combined score and keep their order.

        Args:
            scores: (q, m) float32 of the global search, highest first.
            keys: (q, m) int64; -1 after the last hit of a query that has fewer.
            read_rows: Returns the row vectors of (m,) keys.

        Returns:
            Combined scores (q, m) float32, and keys (q, m); equal combined scores are ordered by lower key.
        """
        scores, keys = scores.copy(), keys.copy()
        for i in range(len(scores)):
            query, count = self.query_rows.select([i]), int((keys[i] >= 0).sum())
            # Apart, because the last bit of a product depends on its size: page 2 must not change page 1.
            for hits in (slice(0, min(count, self.depth)), slice(self.depth, max(count, self.depth))):
                if hits.start == hits.stop:
                    continue
                alignments = compute_alignment_scores(query, read_rows(keys[i, hits]))
                scores[i, hits] = combine_scores(scores[i, hits], alignments, self.alignment_weight)
            order = np.lexsort((keys[i, : self.depth][:count], -scores[i, : self.depth][:count]))
            scores[i, : len(order)], keys[i, : len(order)] = scores[i, order], keys[i, order]
        return scores, keys
