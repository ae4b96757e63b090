"""Distance of `index`."""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

NORM_TOLERANCE = 1e-2  # a float16 row of 1,024 numbers strays by less than 1e-3; an unnormalized one by far more
MIN_SQUARED_NORM, MAX_SQUARED_NORM = (1 - NORM_TOLERANCE) ** 2, (1 + NORM_TOLERANCE) ** 2


def check_unit_norm(vectors: np.ndarray, what: str, names: Sequence[Any]) -> None:
    """Raise ValueError naming the first of the (n, d) `vectors` that is not finite or not of unit length."""
    vectors = vectors.astype(np.float32, copy=False)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    bad = ~((squares >= MIN_SQUARED_NORM) & (squares <= MAX_SQUARED_NORM))  # written so that NaN is bad
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"{what} {names[first]!r} has length {np.sqrt(squares[first]):.4g}, not 1 ({int(bad.sum())} such in this "
            "block); normalize the vectors, and look for NaN in the model that made them."
        )


METRIC = faiss.METRIC_INNER_PRODUCT


HALF_BITS = np.int32(0x8FFFE000 - 2**32)  # sign, exponent and fraction of a float16 that was shifted into a float32


def merge_top_k(scores: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k of (q, m) candidates, highest score first, equal scores by lower key."""
    order, line = np.lexsort((keys, -scores), axis=1)[:, :k], np.arange(len(scores))[:, None]
    return scores[line, order], keys[line, order]


def float16_to_float32(vectors: np.ndarray) -> np.ndarray:
    """(m, d) float32 of finite float16 or of float32 vectors; by their bits, in half of the time of numpy's loop."""
    if vectors.dtype != np.float16:
        return np.asarray(vectors, np.float32)
    bits = vectors.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= HALF_BITS
    found = bits.view(np.float32)  # but for the bias of the exponent: 127 in place of 15
    found *= np.float32(2**112)
    return found
