"""`RowVectors`: the short vectors of the rows (regions or tokens) of some items, without padding.

Shapes: n items, m rows of all items together, k numbers per short vector.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CODE_SCALE = 127.0  # a code of 8 bits is a number of a unit vector times this, rounded
CODE_DTYPE, WEIGHT_DTYPE = np.dtype("i1"), np.dtype("<f2")
SHARE_TOLERANCE = 1e-2  # of the sum of the weights of an item, each rounded to float16


@dataclass(frozen=True)
class RowVectors:
    """Short vectors of the rows of n items, one item after the other."""

    codes: np.ndarray
    """(m, k) int8: unit vectors times `CODE_SCALE`."""
    weights: np.ndarray
    """(m,) float16: share of each row in the score; those of an item add up to 1, except in a model whose score is a
    sum."""
    lengths: np.ndarray
    """(n,) int64: rows of each item, at least 1."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def dim(self) -> int:
        """Numbers per short vector, k."""
        return int(self.codes.shape[1])

    @property
    def digest(self) -> str:
        """64 hex digits of the values."""
        hasher = hashlib.sha256()
        for values in (self.codes, self.weights, self.lengths):
            hasher.update(np.ascontiguousarray(values).tobytes())
        return hasher.hexdigest()

    @property
    def starts(self) -> np.ndarray:
        """First row of each item, (n,) int64."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def has_shares(self) -> bool:
        """Whether the weights of most items add up to 1; those of a model whose score is a sum do not."""
        sums = np.add.reduceat(self.weights.astype(np.float32), self.starts) if len(self) else np.ones(1)
        return bool(np.median(np.abs(sums - 1)) <= SHARE_TOLERANCE)

    def decode(self) -> np.ndarray:
        """Return the short vectors, (m, k) float32."""
        return self.codes.astype(np.float32) * np.float32(1 / CODE_SCALE)

    def select(self, positions: Sequence[int] | np.ndarray) -> "RowVectors":
        """Return some items, in the order of `positions`."""
        positions = np.asarray(positions, np.int64)
        lengths = self.lengths[positions]
        rows = expand_ranges(self.starts[positions], lengths)
        return RowVectors(self.codes[rows], self.weights[rows], lengths)


def expand_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the row numbers of ranges, one range after the other: starts (n,), lengths (n,) -> (sum of lengths,)."""
    first = np.cumsum(lengths) - lengths
    return np.repeat(starts - first, lengths) + np.arange(int(lengths.sum()))


def encode_vectors(vectors: np.ndarray) -> np.ndarray:
    """Encode (m, k) float32 vectors of unit length: (m, k) int8."""
    return np.rint(vectors * CODE_SCALE).astype(CODE_DTYPE)


def encode_rows(vectors: np.ndarray, weights: np.ndarray, mask: np.ndarray) -> RowVectors:
    """Encode the padded rows of a network.

    Args:
        vectors: (n, longest, k) float32 of unit length.
        weights: (n, longest) float32; those of the real rows of an item add up to 1.
        mask: (n, longest) bool, True for a real row.
    """
    codes, lengths = encode_vectors(vectors[mask]), mask.sum(axis=1).astype(np.int64)
    return RowVectors(codes, weights[mask].astype(WEIGHT_DTYPE), lengths)


def concatenate_rows(parts: Sequence[RowVectors]) -> RowVectors:
    """Join the items of several parts, which have the same dimension, in order."""
    return RowVectors(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )


@dataclass(frozen=True)
class Embeddings:
    """What a model computes of n items."""

    vectors: np.ndarray
    """(n, e) float32 of unit length."""
    rows: RowVectors | None = None
    """Row vectors of the items; None for a model without them."""

    def __len__(self) -> int:
        return len(self.vectors)

    def select(self, positions: Sequence[int] | np.ndarray) -> "Embeddings":
        """Return some items, in the order of `positions`."""
        rows = None if self.rows is None else self.rows.select(positions)
        return Embeddings(self.vectors[np.asarray(positions, np.int64)], rows)


def concatenate_embeddings(parts: Sequence[Embeddings]) -> Embeddings:
    """Join the items of several parts of one model, in order; at least one part."""
    rows = [part.rows for part in parts if part.rows is not None]
    return Embeddings(
        np.concatenate([part.vectors for part in parts]), concatenate_rows(rows) if len(rows) == len(parts) else None
    )
