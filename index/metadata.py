"""What an id stands for: Parquet as the record for people and tools, SQLite derived from it for look-up by id."""

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from index.collection import key_of

PARQUET = "metadata.parquet"
LOOKUP = "lookup.sqlite"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),  # the id inside faiss
        pa.field("kind", pa.string(), nullable=False),  # image or caption
        pa.field("id", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("path", pa.string()),
        pa.field("split", pa.string()),
        pa.field("width", pa.int32()),  # pixels
        pa.field("height", pa.int32()),  # pixels
        pa.field("source", pa.string()),  # hash of the content that the vector was made from
    ]
)
COLUMNS = tuple(SCHEMA.names)
AT_ONCE = 500  # parameters of one SQL statement; SQLite's oldest limit is 999


def table(rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> pa.Table:
    """One table of all kinds, sorted by key, from {kind: rows}.

    Raises ValueError on an unknown column, a wrong type, or two items whose 64-bit keys collide.
    """
    records = [_record(kind, row) for kind, some in rows.items() for row in some]
    records.sort(key=lambda record: record["key"])
    for one, two in pairwise(records):
        if one["key"] == two["key"]:
            raise ValueError(
                f"{one['kind']} {one['id']!r} and {two['kind']} {two['id']!r} share the 64-bit key {one['key']}; "
                "rename one of them."
            )
    try:
        return pa.Table.from_pylist(records, SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"a metadata row does not fit the columns {', '.join(COLUMNS)}: {error}") from error


def _record(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown or row.get("kind", kind) != kind:
        what = f"unknown column {unknown[0]!r}" if unknown else f"kind {row['kind']!r}"
        raise ValueError(f"metadata row of {kind} {row['id']!r} has {what}; the columns are {', '.join(COLUMNS)}.")
    return dict(row) | {"key": key_of(kind, row["id"]), "kind": kind}


def write_parquet(path: Path, content: pa.Table) -> None:
    """Write the record: zstd, row groups of 16,384."""
    pq.write_table(content, path, compression="zstd", row_group_size=16_384)


def write_lookup(path: Path, content: pa.Table) -> None:
    """Write the same rows to a new SQLite file, by key and by (kind, id)."""
    types = {name: "INTEGER" if pa.types.is_integer(SCHEMA.field(name).type) else "TEXT" for name in COLUMNS}
    types["key"] = "INTEGER PRIMARY KEY"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # a crash leaves a staging folder that is thrown away
        connection.execute(f"CREATE TABLE items ({', '.join(f'{name} {kind}' for name, kind in types.items())})")
        connection.execute("BEGIN")
        marks = ", ".join("?" * len(COLUMNS))
        for batch in content.to_batches(max_chunksize=16_384):
            values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            connection.executemany(f"INSERT INTO items VALUES ({marks})", values)
        connection.execute("CREATE UNIQUE INDEX by_id ON items (kind, id)")
        connection.execute("CREATE INDEX by_image ON items (image_id, kind)")
        connection.execute("COMMIT")
    finally:
        connection.close()


class Lookup:
    """Rows by key or by id, from an immutable SQLite file; safe to share between threads."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        # immutable: no lock files, no journal look-up, works from read-only media
        name = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(name, uri=True, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def by_key(self, keys: Sequence[int]) -> dict[int, dict[str, Any]]:
        """{key: row} of 64-bit keys. Raises ValueError if one has no row: lists and metadata do not belong together."""
        found = {row["key"]: row for row in self._fetch("key IN ({})", [], keys)}
        lacking = next((key for key in keys if key not in found), None)
        if lacking is not None:
            raise ValueError(
                f"{self.path} has no row for key {lacking}: it is not this version's metadata. Verify the index, "
                "roll back to a good version or build again."
            )
        return found

    def by_id(self, kind: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """{id: row} of those of the text ids `names` that are in the index."""
        return {row["id"]: row for row in self._fetch("kind = ? AND id IN ({})", [kind], names)}

    def of_image(self, kind: str, image_id: str) -> list[dict[str, Any]]:
        """The rows of a kind that belong to one image, by id."""
        found = self._fetch("kind = ? AND image_id IN ({})", [kind], [image_id])
        return sorted(found, key=lambda row: row["id"])

    def _fetch(self, where: str, first: list[Any], values: Sequence[Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for start in range(0, len(values), AT_ONCE):
            part = list(values[start : start + AT_ONCE])
            # only question marks are put into the statement; values go as parameters
            statement = f"SELECT * FROM items WHERE {where.format(', '.join('?' * len(part)))}"
            with self._lock:
                rows += [dict(row) for row in self._connection.execute(statement, first + part)]
        return rows
