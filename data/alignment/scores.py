"""Alignment scores: each row of a query with the best row of an item, and the reverse.

The region-word alignment of TERAN (Messina et al. 2021, "Fine-grained visual textual alignment for cross-modal
retrieval using transformer encoders") with the maximum in both directions, as in FILIP (Yao et al. 2021), and with a
learned weight per row. A score is a weighted mean of cosines, so it is from -1 to 1. With one constant as the weight of
every row, it is the sum of TERAN times that constant (`tern.networks.teran`).

Shapes: n items, m rows of all items together, l rows of a query, k numbers per short vector.
"""

from dataclasses import dataclass

import numpy as np

from data.alignment.row_vectors import CODE_SCALE, RowVectors

# OpenBLAS starts threads above this number of products, which cost a query more than the products themselves.
ONE_THREAD_PRODUCTS = 2**18


def compute_alignment_scores(query: RowVectors, items: RowVectors) -> np.ndarray:
    """Score items against one query.

    Args:
        query: Rows of one query.
        items: Rows of n items of the other modality.

    Returns:
        (n,) float32: the mean of two weighted means, that of the query's rows, each with its best row of the item, and
        that of the item's rows, each with its best row of the query.

    Raises:
        ValueError: `query` is not one item, or the dimensions differ.
    """
    if not len(items):
        return np.empty(0, np.float32)
    cosines, starts = _compute_cosines(query, items), items.starts
    best_of_query_rows = np.maximum.reduceat(cosines, starts, axis=1)  # (l, n)
    from_query = query.weights.astype(np.float32) @ best_of_query_rows  # (n,)
    from_items = np.add.reduceat(cosines.max(axis=0) * items.weights.astype(np.float32), starts)  # (n,)
    scores: np.ndarray = (from_query + from_items) * np.float32(0.5)
    return scores


def combine_scores(cosines: np.ndarray, alignments: np.ndarray, alignment_weight: float) -> np.ndarray:
    """Combine the scores of both stages: cosines (n,) and alignment scores (n,) -> (n,) float32, from -1 to 1.

    Args:
        cosines: Scores of the first stage.
        alignments: Scores of `compute_alignment_scores`.
        alignment_weight: Weight of the second stage, 0 to 1; that of the first is 1 minus it.
    """
    weight = np.float32(alignment_weight)
    return np.asarray((1 - weight) * cosines + weight * alignments, np.float32)


@dataclass(frozen=True)
class PairParts:
    """All pairs of a row of a query and a row of an item, with what each pair adds to the alignment score."""

    cosines: np.ndarray
    """(l, m) float32."""
    parts: np.ndarray
    """(l, m) float32, 0 for a pair of which neither row is the best one of the other; their sum is the score."""


def divide_score(query: RowVectors, item: RowVectors) -> PairParts:
    """Divide the alignment score of a query and an item into what each pair of rows adds to it.

    Args:
        query: Rows of one query.
        item: Rows of one item.
    """
    cosines = _compute_cosines(query, item)  # (l, m)
    parts, best, best_of_rows = np.zeros_like(cosines), cosines.argmax(axis=1), cosines.argmax(axis=0)
    parts[np.arange(len(best)), best] = query.weights.astype(np.float32) * cosines.max(axis=1)
    parts[best_of_rows, np.arange(len(best_of_rows))] += item.weights.astype(np.float32) * cosines.max(axis=0)
    return PairParts(cosines, parts * np.float32(0.5))


def _compute_cosines(query: RowVectors, items: RowVectors) -> np.ndarray:
    """Compute all cosines: (l, m) float32."""
    if len(query) != 1 or query.dim != items.dim:
        raise ValueError(
            f"The query has {len(query)} items of {query.dim} numbers per row, the candidates {items.dim}. Pass one "
            "query of the model of the candidates."
        )
    query_vectors, num_rows = query.decode(), len(items.codes)
    cosines = np.empty((len(query_vectors), num_rows), np.float32)
    step = max(1, ONE_THREAD_PRODUCTS // max(1, query_vectors.size))
    for start in range(0, num_rows, step):
        block = items.codes[start : start + step].astype(np.float32)
        np.matmul(query_vectors, block.T, out=cosines[:, start : start + step])
    cosines *= np.float32(1 / CODE_SCALE)
    return cosines
