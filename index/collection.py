"""Input of an index: unit vectors by text id, with a metadata row for each; order has no meaning."""

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from collections.abc import Collection as Ids
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from data.alignment import RowVectors
from data.config import ColumnType
from data.io import digest
from index.config import KINDS, QuerySource
from index.ivf.distance import check_unit_norm
from index.metadata.schema import Row
from index.versions.calibration import ScoreCalibration

BLOCK = 8192  # vectors in memory at the same time


@dataclass(frozen=True)
class Collection:
    """All vectors of one kind."""

    ids: Sequence[str]
    """n unique text ids, in any order"""
    vectors: np.ndarray | Callable[[list[str]], np.ndarray]
    """(n, d) array whose row i belongs to `ids[i]`; or a function from m ids to their (m, d) vectors (such as
    `partial(store.read, "features")`) for vectors that do not fit in memory; float16 or float32, unit length"""
    metadata: Sequence[Row]
    """one row per id, in any order"""
    rows: Callable[[list[str]], RowVectors] | None = None
    """function from m ids to their row vectors, in their order; None: the items have none and are not reranked"""

    @cached_property
    def sorted_ids(self) -> list[str]:
        """The ids in the order of all files, so that equal content gives equal bytes."""
        return sorted(self.ids)

    @cached_property
    def _position_by_id(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.ids)}

    def read(self, ids: list[str]) -> np.ndarray:
        """Return the (len(ids), d) float32 vectors of `ids`, in their order."""
        if callable(self.vectors):
            vectors = np.asarray(self.vectors(ids))
        else:
            vectors = np.asarray(self.vectors)[[self._position_by_id[name] for name in ids]]
        if vectors.ndim != 2 or len(vectors) != len(ids):
            raise ValueError(
                f"The vectors have shape {vectors.shape} for {len(ids)} ids, the first is {ids[0]!r}. "
                "Return one vector per id."
            )
        return np.ascontiguousarray(vectors, np.float32)

    def iter_blocks(self, ids: list[str] | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield up to `BLOCK` ids and their (m, d) float32 vectors at a time; None: all ids, sorted."""
        ids = self.sorted_ids if ids is None else ids
        for start in range(0, len(ids), BLOCK):
            block = ids[start : start + BLOCK]
            yield block, self.read(block)

    def read_rows(self, ids: list[str]) -> RowVectors:
        """Return the row vectors of `ids`, in their order.

        Raises:
            ValueError: The collection has none, or not those of every id.
        """
        if self.rows is None:
            raise ValueError("The collection has no row vectors. Pass `Collection.rows`.")
        rows = self.rows(ids)
        shape = (len(rows), len(rows.codes), len(rows.weights))
        if shape != (len(ids), int(rows.lengths.sum()), shape[1]) or not (rows.lengths > 0).all():
            raise ValueError(
                f"There are row vectors of {shape[0]} items, {shape[1]} codes and {shape[2]} weights, for {len(ids)} "
                f"ids, the first is {ids[0]!r}. Return at least one row vector per id."
            )
        return rows

    def iter_row_blocks(self, ids: list[str]) -> Iterator[RowVectors]:
        """Yield the row vectors of `ids`, those of up to `BLOCK` ids at a time."""
        for start in range(0, len(ids), BLOCK):
            yield self.read_rows(ids[start : start + BLOCK])

    def find_unusable(self) -> dict[str, str]:
        """Read every vector once. Returns by id why a vector has no direction: it is not finite, or has length 0."""
        problems = {}
        for names, vectors in self.iter_blocks():
            is_finite = np.isfinite(vectors).all(axis=1)
            for row in np.flatnonzero(~is_finite | ~vectors.any(axis=1)):
                problems[names[row]] = "its vector has length 0" if is_finite[row] else "its vector is not finite"
        return problems

    def exclude(self, ids: Container[str]) -> "Collection":
        """Return the collection without some ids."""
        rows = [row for row in self.metadata if row.id not in ids]
        return Collection([name for name in self.ids if name not in ids], self.read, rows, self.rows)

    def check(self, kind: str) -> None:
        """Raise ValueError if the collection is invalid.

        It is invalid if it is empty, an id is repeated, or rows and ids are not the same set.
        """
        if not len(self.ids):
            raise ValueError(f"The {kind} collection is empty, so there is nothing to index. Embed some items first.")
        if len(self._position_by_id) != len(self.ids):
            duplicate = next(name for i, name in enumerate(self.ids) if self._position_by_id[name] != i)
            raise ValueError(f"The {kind} id {duplicate!r} occurs twice. Remove one of the two vectors.")
        if not callable(self.vectors) and len(self.vectors) != len(self.ids):
            raise ValueError(f"The {kind} collection has {len(self.vectors)} vectors for {len(self.ids)} ids.")
        _check_rows(kind, self._position_by_id, self.metadata)

    def hash_vectors(self, kind: str, ids: list[str] | None = None) -> tuple[str, int]:
        """Read and check every vector, or those of `ids`, once; row vectors too, if there are any.

        Returns:
            SHA-256 of ids and values, and the dimension d (0 without vectors).
        """
        hasher, dim = hashlib.sha256(), 0
        for names, vectors in self.iter_blocks(ids):
            check_unit_norm(vectors, f"{kind} vector of", names)
            if dim and vectors.shape[1] != dim:
                raise ValueError(
                    f"The {kind} vector of {names[0]!r} has {vectors.shape[1]} numbers, others have {dim}. Embed all "
                    "items with one model."
                )
            dim = vectors.shape[1]
            hasher.update("\0".join([*names, ""]).encode())
            hasher.update(vectors.tobytes())
            if self.rows is not None:
                for values in self._check_row_dim(kind, names):
                    hasher.update(np.ascontiguousarray(values).tobytes())
        return hasher.hexdigest(), dim

    @cached_property
    def row_dim(self) -> int:
        """Numbers per row vector; 0 without row vectors."""
        return self.read_rows(self.sorted_ids[:1]).dim if self.rows is not None and len(self.ids) else 0

    def _check_row_dim(self, kind: str, names: list[str]) -> tuple[np.ndarray, ...]:
        """Read the row vectors of some ids; return codes, weights and lengths."""
        rows = self.read_rows(names)
        if rows.dim != self.row_dim:
            raise ValueError(
                f"The row vectors of {kind} {names[0]!r} have {rows.dim} numbers, others have {self.row_dim}. Embed "
                "all items with one model."
            )
        return rows.codes, rows.weights, rows.lengths


@dataclass(frozen=True)
class QueryLabels:
    """The relevant items of queries, in their order: by id, or by score if the collection does not have them."""

    relevant_ids: Sequence[Ids[str]] | None = None
    """per query the ids of its relevant items"""
    relevant_scores: np.ndarray | None = None
    """(q,) per query the score of its best relevant item, which is not in the collection"""

    def get_group(self, row: int) -> str:
        """Return a name that queries for the same items share."""
        return str(row) if self.relevant_ids is None else min(self.relevant_ids[row], default="")

    @property
    def digest(self) -> str:
        """12 hex digits of the labels."""
        ids = None if self.relevant_ids is None else [sorted(line) for line in self.relevant_ids]
        scores = None if self.relevant_scores is None else np.asarray(self.relevant_scores, np.float64).tolist()
        return digest([ids, scores])


@dataclass(frozen=True)
class IndexInputs:
    """Everything that a build or an update indexes."""

    collections: Mapping[str, Collection]
    """by kind, image and caption (either may be missing); equal dimension d"""
    queries: Mapping[str, np.ndarray] = field(default_factory=dict)
    """by the kind that is searched, (q, d) unit vectors, q at least 2, held out from training: caption vectors for
    "image", image vectors for "caption". They choose nprobe and measure recall@10; an update needs those of a kind that
    the version to update does not have."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """what the vectors were computed from (digests of model and stores), JSON-serializable; kept in the manifest"""
    query_sources: Mapping[str, QuerySource] = field(default_factory=dict)
    """by kind, where its queries come from; "held-out" if missing; kept in the manifest"""
    labels: Mapping[str, QueryLabels] = field(default_factory=dict)
    """by kind, the relevant items of its queries, which calibrate the scores"""
    query_rows: Mapping[str, RowVectors] = field(default_factory=dict)
    """by kind, the row vectors of its queries, in their order; missing where the queries are not reranked"""
    alignment_weight: float = 0.0
    """weight of the alignment score in the combined score, 0 to 1, if the collections have row vectors"""
    calibrations: Mapping[str, ScoreCalibration] = field(default_factory=dict)
    """by kind, the calibration that another index has of the same items; a build takes it if there are no labels"""
    columns: Mapping[str, ColumnType] = field(default_factory=dict)
    """types of the columns in `Row.columns`, by name"""

    def check_kinds(self) -> None:
        """Raise ValueError if there are no collections, or one of an unknown kind."""
        if not self.collections:
            raise ValueError("There are no collections to index. Pass the vectors of images, captions or both.")
        for kind in self.collections:
            if kind not in KINDS:
                raise ValueError(f"There is no kind {kind!r}; a collection is one of {', '.join(KINDS)}.")


def _check_rows(kind: str, ids: Mapping[str, int], rows: Sequence[Row]) -> None:
    row_ids = [row.id for row in rows]
    if len(row_ids) == len(ids) and set(row_ids) == ids.keys():
        return
    missing = sorted(set(ids) - set(row_ids))
    unknown = sorted(set(row_ids) - set(ids))
    duplicates = [name for name, times in Counter(row_ids).items() if times > 1]
    example = f"{missing[0]!r} has no row" if missing else f"the row of {(unknown or duplicates)[0]!r} is superfluous"
    raise ValueError(
        f"The {kind} collection has {len(rows)} metadata rows for {len(ids)} ids: {example}. Pass one row per id."
    )
