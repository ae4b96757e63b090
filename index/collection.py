"""What comes in: unit vectors under text ids, with a metadata row for each. Positions mean nothing here, ids do."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from index.ivf.distance import check_unit_norm

BLOCK = 8192  # vectors held in memory at a time


@dataclass(frozen=True)
class Collection:
    """All vectors of one kind.

    ids      n text ids, each once, in any order
    vectors  (n, d) array whose row i belongs to ids[i], or a function from a list of ids to their (m, d) rows
             (such as `partial(store.read, "features")`), for vectors that should not be in memory all at once;
             float16 or float32, unit length
    rows     one mapping an item with its "id" and any of the metadata columns, in any order
    """

    ids: Sequence[str]
    vectors: np.ndarray | Callable[[list[str]], np.ndarray]
    metadata: Sequence[Mapping[str, Any]]

    @cached_property
    def sorted_ids(self) -> list[str]:
        """The ids, sorted: the order of everything that is written, so that equal content gives equal bytes."""
        return sorted(self.ids)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.ids)}

    def read(self, names: list[str]) -> np.ndarray:
        """(len(names), d) float32 vectors of `names`, in their order."""
        if callable(self.vectors):
            found = np.asarray(self.vectors(names))
        else:
            found = np.asarray(self.vectors)[[self._place[name] for name in names]]
        if found.ndim != 2 or len(found) != len(names):
            raise ValueError(
                f"vectors have shape {found.shape} for {len(names)} ids, the first of them {names[0]!r}; "
                "give one row of numbers an id."
            )
        return np.ascontiguousarray(found, np.float32)

    def iter_blocks(self, names: list[str] | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield (ids, (m, d) float32 vectors) of `names` (default: all, sorted), `BLOCK` at a time."""
        names = self.sorted_ids if names is None else names
        for start in range(0, len(names), BLOCK):
            part = names[start : start + BLOCK]
            yield part, self.read(part)

    def check(self, kind: str) -> None:
        """Raise ValueError if ids repeat, or if rows and ids are not the same set."""
        if not len(self.ids):
            raise ValueError(f"the {kind} collection is empty: there is nothing to index. Embed some items first.")
        if len(self._place) != len(self.ids):
            twice = next(name for i, name in enumerate(self.ids) if self._place[name] != i)
            raise ValueError(f"{kind} id {twice!r} is given twice; every id must name one vector. Drop one of them.")
        if not callable(self.vectors) and len(self.vectors) != len(self.ids):
            raise ValueError(f"{kind}: {len(self.vectors)} vectors for {len(self.ids)} ids; give one vector an id.")
        _check_rows(kind, self._place, self.metadata)

    def hash_vectors(self, kind: str, some: list[str] | None = None) -> tuple[str, int]:
        """Read every vector, or those of `some` ids, once: check it; (sha256 of ids and values, dimension d or 0)."""
        hasher, dim = hashlib.sha256(), 0
        for names, vectors in self.iter_blocks(some):
            check_unit_norm(vectors, f"{kind} vector of", names)
            if dim and vectors.shape[1] != dim:
                raise ValueError(f"{kind} vector of {names[0]!r} has {vectors.shape[1]} numbers, others {dim}.")
            dim = vectors.shape[1]
            hasher.update("\0".join([*names, ""]).encode())
            hasher.update(vectors.tobytes())
        return hasher.hexdigest(), dim


def _check_rows(kind: str, ids: Mapping[str, int], rows: Sequence[Mapping[str, Any]]) -> None:
    named = [row.get("id") for row in rows]
    if len(named) == len(ids) and set(named) == ids.keys():
        return
    lacking = sorted(set(ids) - set(named))
    foreign = sorted(str(name) for name in set(named) - set(ids))
    twice = [name for name, times in Counter(named).items() if times > 1]
    example = f"no row for {lacking[0]!r}" if lacking else f"a row for {(foreign or twice)[0]!r} too many"
    raise ValueError(
        f"{kind}: {len(rows)} metadata rows for {len(ids)} ids, with {example}; give one row an id, under 'id'."
    )
