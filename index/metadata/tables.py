"""What keys stand for: Parquet as the record for people and tools, SQLite made from it for look-up, both by key."""

import errno
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.metadata.schema import COLUMNS, SCHEMA, compute_key

BLOCK_ROWS = 32_768  # rows that are Python objects at a time
ROW_GROUP_ROWS = 16_384  # rows of a Parquet row group


def build_table(kind: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """The rows of one kind with their keys, sorted by key; read once, `BLOCK` at a time, so that they may be made then.

    Raises ValueError on an unknown column, a wrong type, or two items whose 64-bit keys collide.
    """
    content = pa.concat_tables([SCHEMA.empty_table(), *(_block(kind, some) for some in iter_blocks(rows))])
    keys = content["key"].to_numpy()
    order = np.argsort(keys)
    twice = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(twice):
        one, two = (content["id"][i].as_py() for i in sorted(order[twice[0] : twice[0] + 2].tolist()))
        raise ValueError(f"{kind} {one!r} and {kind} {two!r} share the 64-bit key of a row; rename one of them.")
    return content.take(order).combine_chunks()


def iter_blocks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """The rows, `BLOCK` at a time."""
    left = iter(rows)
    return iter(lambda: list(islice(left, BLOCK_ROWS)), [])


def _block(kind: str, rows: list[Mapping[str, Any]]) -> pa.Table:
    try:
        records = pa.Table.from_pylist([_record(kind, row) for row in rows], SCHEMA.remove(0))
        keys = np.fromiter(map(compute_key, records.to_pylist()), np.int64, len(rows))  # as the columns' types have it
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
        raise ValueError(f"a metadata row does not fit the columns {', '.join(COLUMNS)}: {error}") from error
    return records.add_column(0, SCHEMA.field("key"), [keys])


def _record(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(row) - (set(COLUMNS) - {"key"}))
    if unknown or row.get("kind", kind) != kind:
        what = f"unknown column {unknown[0]!r}" if unknown else f"kind {row['kind']!r}"
        raise ValueError(f"metadata row of {kind} {row['id']!r} has {what}; the columns are {', '.join(COLUMNS[1:])}.")
    return dict(row) | {"kind": kind}


def table_digest(content: pa.Table) -> str:
    """Hex SHA-256 of a table: of its keys, which are hashes of its rows."""
    return hashlib.sha256(content["key"].to_numpy().tobytes()).hexdigest()


def write_parquet(path: Path, content: pa.Table) -> None:
    """Write the record: zstd, row groups of `GROUP`."""
    with open(path, "wb") as file:
        pq.write_table(content, file, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def write_lookup(path: Path, content: pa.Table) -> None:
    """Write the same rows to a new SQLite file, by key and by id. A full disk is an OSError."""
    types = {name: "INTEGER" if pa.types.is_integer(SCHEMA.field(name).type) else "TEXT" for name in COLUMNS}
    types["key"] = "INTEGER PRIMARY KEY"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # a half is thrown away
        connection.execute(f"CREATE TABLE items ({', '.join(f'{name} {kind}' for name, kind in types.items())})")
        connection.execute("BEGIN")
        marks = ", ".join("?" * len(COLUMNS))
        for batch in content.to_batches(max_chunksize=ROW_GROUP_ROWS):
            values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            connection.executemany(f"INSERT INTO items VALUES ({marks})", values)
        connection.execute("CREATE UNIQUE INDEX by_id ON items (id)")
        connection.execute("CREATE INDEX by_image ON items (image_id)")
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:  # it says neither where nor what: "disk I/O error"
        full = error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_WRITE)
        raise OSError(errno.ENOSPC if full else errno.EIO, f"SQLite cannot write: {error}", str(path)) from error
    finally:
        connection.close()
