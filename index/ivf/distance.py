"""The distance of the index, inner product of unit vectors: norm check, order of results, conversion from float16."""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

METRIC = faiss.METRIC_INNER_PRODUCT
NORM_TOLERANCE = 1e-2  # a float16 vector of 1,024 numbers is within 1e-3 of unit length, an unnormalized one is not
MIN_SQUARED_NORM, MAX_SQUARED_NORM = (1 - NORM_TOLERANCE) ** 2, (1 + NORM_TOLERANCE) ** 2
HALF_BITS = np.int32(0x8FFFE000 - 2**32)  # sign, exponent and fraction of a float16 shifted into a float32


def check_unit_norm(vectors: np.ndarray, description: str, names: Sequence[Any]) -> None:
    """Check that vectors are finite and of unit length.

    Args:
        vectors: (n, d), of any floating-point dtype.
        description: What the vectors are, for the message, such as "query in row".
        names: n names; the message quotes that of the first invalid vector.

    Raises:
        ValueError: A vector is not finite, or its length differs from 1.
    """
    vectors = vectors.astype(np.float32, copy=False)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    invalid = ~((squares >= MIN_SQUARED_NORM) & (squares <= MAX_SQUARED_NORM))  # NaN is invalid in this form
    if invalid.any():
        first = int(np.argmax(invalid))
        raise ValueError(
            f"The {description} {names[first]!r} has length {np.sqrt(squares[first]):.4g}, not 1 "
            f"({int(invalid.sum())} such vectors in this block). Normalize the vectors (`tern index import "
            "--normalize`), and check the model for NaN."
        )


def merge_top_k(scores: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best k of (q, m) candidates, highest score first, equal scores by lower key.

    Args:
        scores: (q, m), higher is better.
        keys: (q, m) integers: the key of each score.
        k: Number of columns to return; with k above m all m are returned.

    Returns:
        Scores and keys, both (q, min(k, m)).
    """
    order, rows = np.lexsort((keys, -scores), axis=1)[:, :k], np.arange(len(scores))[:, None]
    return scores[rows, order], keys[rows, order]


def float16_to_float32(vectors: np.ndarray) -> np.ndarray:
    """Return (m, d) float32 of finite float16 or of float32 vectors.

    The bits are converted directly, which is twice as fast as numpy's loop.
    """
    if vectors.dtype != np.float16:
        return np.asarray(vectors, np.float32)
    bits = vectors.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= HALF_BITS
    converted = bits.view(np.float32)  # correct except for the exponent bias, 15 instead of 127
    converted *= np.float32(2**112)
    return converted
