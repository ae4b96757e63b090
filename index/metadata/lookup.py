"""Rows of a collection by key or by id, asked of every shard's look-up: a position means nothing anywhere."""

import sqlite3
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from index.metadata.schema import COLUMNS

MAX_PARAMETERS = 500  # parameters of one SQL statement; SQLite's oldest limit is 999


@lru_cache(maxsize=MAX_PARAMETERS)
def _by_key(count: int) -> str:
    """A join with so many keys: for `IN` SQLite would make a table of them, which costs as much as a row."""
    marks = ", ".join(["(?)"] * count)
    return f"SELECT {', '.join(COLUMNS)} FROM (VALUES {marks}) AS asked CROSS JOIN items ON items.key = asked.column1"


class ShardLookup:
    """Rows of one shard, from an immutable SQLite file; safe to share between threads."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        # immutable: no lock files, no journal look-up, works from read-only media
        name = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(name, uri=True, check_same_thread=False)
        self._connection.execute(
            f"PRAGMA mmap_size = {path.stat().st_size}"
        )  # a row lies anywhere: no copy of its page

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def query_tuples(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of a SELECT as plain tuples: for many of them."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def keys(self) -> np.ndarray:
        """(n,) int64 keys of all rows, the dead too."""
        return np.array([key for (key,) in self.query_tuples("SELECT key FROM items", ())], np.int64)

    def by_key(self, keys: Sequence[int]) -> dict[int, dict[str, Any]]:
        """{key: row} of those of the keys that are here."""
        parts = [keys[start : start + MAX_PARAMETERS] for start in range(0, len(keys), MAX_PARAMETERS)]
        found = [row for part in parts for row in self.query_tuples(_by_key(len(part)), part)]
        return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in found}

    def query(self, statement: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """The rows of a SELECT over the table `items`; values go as parameters, never into the statement."""
        with self._lock:
            cursor = self._connection.execute(statement, values)
            names, found = [column[0] for column in cursor.description], cursor.fetchall()
        return [dict(zip(names, row, strict=True)) for row in found]


class MetadataLookup:
    """All rows of a collection that are alive.

    dead   (m,) int64 keys, sorted, that shards hold and that are never answered
    bases  as in `index.vectors.MappedVectors`
    """

    def __init__(self, paths: Sequence[Path], dead: np.ndarray, num_base_shards: int = 0):
        self.lookups, self._bases = [ShardLookup(path) for path in paths], num_base_shards
        self._dead = frozenset(dead.tolist())

    def close(self) -> None:
        """Let go of the files."""
        for lookup in self.lookups:
            lookup.close()

    def by_key(self, keys: Sequence[int]) -> dict[int, dict[str, Any]]:
        """{key: row}. Raises ValueError if one has no row: lists and metadata do not belong together."""
        wanted = [key for key in keys if key not in self._dead] if self._dead else keys
        found: dict[int, dict[str, Any]] = {}
        home: list[list[int]] = [[] for _ in range(self._bases)]
        for key in wanted if self._bases else ():
            home[key % self._bases].append(key)
        for lookup, some in zip(self.lookups, home, strict=False):
            found |= lookup.by_key(some)
        for lookup in self.lookups if len(found) < len(wanted) else ():
            found |= lookup.by_key([key for key in wanted if key not in found])
        if len(found) < len(keys) and (lacking := next((key for key in keys if key not in found), None)) is not None:
            folder = self.lookups[0].path.parent.parent
            raise ValueError(
                f"no look-up in {folder} has a row for key {lacking}: it is not this version's metadata. Verify the "
                "index, roll back to a good version or build again."
            )
        return found

    def by_id(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """{id: row} of those of the text ids that are in the collection."""
        return {row["id"]: row for lookup in self.lookups for row in self._of(lookup, "id", names)}

    def keys(self, names: Sequence[str]) -> np.ndarray:
        """(m,) int64 keys, sorted, of those of the text ids that are in the collection."""
        found = [row["key"] for lookup in self.lookups for row in self._of(lookup, "id", names, "key")]
        return np.unique(np.asarray(found, np.int64))

    def find_keys(self, condition: str, values: Sequence[Any]) -> np.ndarray:
        """(m,) int64 keys, sorted, of the rows that answer to a condition of `index.metadata.filters`, its values apart."""
        statement = f"SELECT key FROM items WHERE {condition}"
        found = [key for lookup in self.lookups for (key,) in lookup.query_tuples(statement, values)]
        return np.setdiff1d(np.asarray(found, np.int64), np.fromiter(self._dead, np.int64, len(self._dead)))

    def find_image_ids(self, condition: str, values: Sequence[Any]) -> set[str]:
        """The images that such rows belong to."""
        statement = f"SELECT key, image_id FROM items WHERE {condition}"
        found = (pair for lookup in self.lookups for pair in lookup.query_tuples(statement, values))
        return {image for key, image in found if image is not None and key not in self._dead}

    def find_by_image(self, image_id: str) -> list[dict[str, Any]]:
        """The rows that belong to one image, by id."""
        found = [row for lookup in self.lookups for row in self._of(lookup, "image_id", [image_id])]
        return sorted(found, key=lambda row: row["id"])

    def _of(self, lookup: ShardLookup, column: str, values: Sequence[Any], what: str = "*") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for start in range(0, len(values), MAX_PARAMETERS):
            part = list(values[start : start + MAX_PARAMETERS])
            marks = ", ".join("?" * len(part))
            rows += lookup.query(f"SELECT {what} FROM items WHERE {column} IN ({marks})", part)
        return [row for row in rows if row["key"] not in self._dead]
