"""Metadata rows of a collection by key, id, image or condition, from the SQLite files of its shards."""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from index.metadata.schema import Row

MAX_PARAMETERS = 500  # parameters per SQL statement; the limit of old SQLite versions is 999
PROGRESS_STEPS = 1_000  # of SQLite between two looks at the clock; a row with `like` takes about 10
SELECT = f"SELECT {', '.join(Row._fields)} FROM"
_max_filter_seconds: ContextVar[float | None] = ContextVar("max_filter_seconds", default=None)


class FilterTimeoutError(ValueError):
    """A filter takes longer than `limit_filter_time` allows."""


@contextmanager
def limit_filter_time(seconds: float) -> Iterator[None]:
    """Limit the time of each filter in this block and thread; a filter that takes longer is a `FilterTimeoutError`."""
    token = _max_filter_seconds.set(seconds)
    try:
        yield
    finally:
        _max_filter_seconds.reset(token)


def compute_filter_deadline() -> float | None:
    """Return the time of `time.monotonic` until which a filter that starts now may run; None: as long as it takes."""
    seconds = _max_filter_seconds.get()
    return None if seconds is None else time.monotonic() + seconds


@lru_cache(maxsize=MAX_PARAMETERS)
def _select_by_key(num_keys: int) -> str:
    """A join with `num_keys` keys: for `IN` SQLite builds a temporary table, which costs as much as a row."""
    marks = ", ".join(["(?)"] * num_keys)
    return f"{SELECT} (VALUES {marks}) AS requested CROSS JOIN items ON items.key = requested.column1"


class ShardLookup:
    """Rows of one shard, from an immutable SQLite file; safe to share between threads."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        # immutable: SQLite creates no lock files and looks for no journal, so read-only media work
        name = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(name, uri=True, check_same_thread=False)
        # Rows are read at random: with a memory map no page is copied.
        self._connection.execute(f"PRAGMA mmap_size = {path.stat().st_size}")
        if not any(name == "columns" for _, name, *_ in self._connection.execute("PRAGMA table_info(items)")):
            # Written before schema 7. A temporary view is in memory, and hides the table of this name.
            self._connection.execute("CREATE TEMP VIEW items AS SELECT *, NULL AS columns FROM main.items")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def query(self, statement: str, values: Sequence[Any], deadline: float | None = None) -> list[tuple[Any, ...]]:
        """Run a SELECT over the table `items`; values are bound as parameters, never part of the statement.

        Raises:
            FilterTimeoutError: It runs at `deadline`, a time of `time.monotonic`.
        """
        with self._lock:
            if deadline is None:
                return self._connection.execute(statement, values).fetchall()
            self._connection.set_progress_handler(lambda: time.monotonic() >= deadline, PROGRESS_STEPS)
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                    raise
                raise FilterTimeoutError(
                    "The filter takes too long. Use fewer tests with `like` and `caption`, and shorter patterns."
                ) from error
            finally:
                self._connection.set_progress_handler(None, 0)

    def query_in(self, columns: str, column: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        """Select `columns` of the rows whose text `column` is among `values`.

        Args:
            columns: Columns of the SELECT, separated by commas; part of the statement, so never from a user.
            column: Name of the text column to compare; part of the statement too.
            values: Texts to find, any number of them; bound as parameters.

        Returns:
            One tuple of `columns` per row found, in no defined order.
        """
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(values), MAX_PARAMETERS):
            block = list(values[start : start + MAX_PARAMETERS])
            marks = ", ".join("?" * len(block))
            rows += self.query(f"SELECT {columns} FROM items WHERE {column} IN ({marks})", block)
        return rows

    def keys(self) -> np.ndarray:
        """Return the (n,) int64 keys of all rows, deleted ones included."""
        return np.array([key for (key,) in self.query("SELECT key FROM items", ())], np.int64)

    def by_key(self, keys: Sequence[int]) -> dict[int, Row]:
        """Return the rows of those keys that this shard has, by key."""
        blocks = [keys[start : start + MAX_PARAMETERS] for start in range(0, len(keys), MAX_PARAMETERS)]
        found = (Row._make(values) for block in blocks for values in self.query(_select_by_key(len(block)), block))
        return {row.key: row for row in found if row.key is not None}


class MetadataLookup:
    """All live rows of a collection; safe to share between threads.

    Attributes:
        deleted_keys: Keys of rows that are in the files but never returned.

    Args:
        paths: SQLite files of the shards, base shards first.
        deleted_keys: (m,) int64, sorted: rows that are in the files but never returned.
        num_base_shards: As in `index.ivf.vectors.MappedVectors`.
    """

    def __init__(self, paths: Sequence[Path], deleted_keys: np.ndarray, num_base_shards: int = 0):
        self.lookups, self._num_base_shards = [ShardLookup(path) for path in paths], num_base_shards
        self.deleted_keys = frozenset(deleted_keys.tolist())

    def close(self) -> None:
        """Close the files."""
        for lookup in self.lookups:
            lookup.close()

    def by_key(self, keys: Sequence[int]) -> dict[int, Row]:
        """Return the rows of all keys, by key.

        Raises:
            ValueError: A key has no row: the inverted lists and the metadata do not belong together.
        """
        live_keys = [key for key in keys if key not in self.deleted_keys] if self.deleted_keys else keys
        rows: dict[int, Row] = {}
        keys_by_shard: list[list[int]] = [[] for _ in range(self._num_base_shards)]
        for key in live_keys if self._num_base_shards else ():
            keys_by_shard[key % self._num_base_shards].append(key)
        for lookup, shard_keys in zip(self.lookups, keys_by_shard, strict=False):
            rows |= lookup.by_key(shard_keys)
        for lookup in self.lookups if len(rows) < len(live_keys) else ():
            rows |= lookup.by_key([key for key in live_keys if key not in rows])
        if len(rows) < len(keys) and (missing := next((key for key in keys if key not in rows), None)) is not None:
            folder = self.lookups[0].path.parent.parent
            raise ValueError(
                f"No lookup file in {folder} has a row for key {missing}: it is not the metadata of this version. Run "
                "`tern index verify`; then roll back to a good version or build again."
            )
        return rows

    def by_id(self, ids: Sequence[str]) -> dict[str, Row]:
        """Return the rows of those ids that are in the collection, by id."""
        return {row.id: row for row in self._find_rows("id", ids)}

    def keys(self, ids: Sequence[str]) -> np.ndarray:
        """Return the (m,) int64 keys, sorted, of those ids that are in the collection."""
        keys = [key for lookup in self.lookups for (key,) in lookup.query_in("key", "id", ids)]
        return np.unique(np.asarray([key for key in keys if key not in self.deleted_keys], np.int64))

    def find_keys(self, condition: str, values: Sequence[Any], deadline: float | None = None) -> np.ndarray:
        """Return the (m,) int64 keys, sorted, of the rows that match an SQL condition.

        `index.metadata.filters` makes the condition. `deadline` is that of `ShardLookup.query`.
        """
        statement = f"SELECT key FROM items WHERE {condition}"
        keys = [key for lookup in self.lookups for (key,) in lookup.query(statement, values, deadline)]
        deleted_keys = np.fromiter(self.deleted_keys, np.int64, len(self.deleted_keys))
        return np.setdiff1d(np.asarray(keys, np.int64), deleted_keys)

    def find_image_ids(self, condition: str, values: Sequence[Any], deadline: float | None = None) -> set[str]:
        """Return the ids of the images that the rows matching an SQL condition belong to; see `find_keys`."""
        statement = f"SELECT key, image_id FROM items WHERE {condition}"
        pairs = (pair for lookup in self.lookups for pair in lookup.query(statement, values, deadline))
        return {image_id for key, image_id in pairs if image_id is not None and key not in self.deleted_keys}

    def find_by_images(self, image_ids: Sequence[str]) -> dict[str, list[Row]]:
        """Return the rows that belong to images, by the id of the image; those of one image are sorted by id."""
        rows_by_image: dict[str, list[Row]] = {image_id: [] for image_id in image_ids}
        for row in sorted(self._find_rows("image_id", list(rows_by_image)), key=lambda row: row.id):
            assert row.image_id is not None  # it was asked for
            rows_by_image[row.image_id].append(row)
        return rows_by_image

    def _find_rows(self, column: str, values: Sequence[str]) -> Iterable[Row]:
        for lookup in self.lookups:
            for row in map(Row._make, lookup.query_in(", ".join(Row._fields), column, values)):
                if row.key not in self.deleted_keys:
                    yield row
