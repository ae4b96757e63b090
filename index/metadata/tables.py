"""Metadata tables of shards: Parquet for people and other tools, SQLite with the same rows for lookup, both by key."""

import errno
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.config import ColumnType
from data.io import parse_columns
from index.metadata.arrow_schema import SCHEMA
from index.metadata.schema import COLUMNS, CONTENT_COLUMNS, Row, compute_key

BLOCK_ROWS = 32_768  # rows that are Python objects at the same time
ROW_GROUP_ROWS = 16_384  # rows per Parquet row group
CONVERSION_ERRORS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError)


def build_table(kind: str, rows: Iterable[Row]) -> pa.Table:
    """Build the table of the rows of one kind with their keys, sorted by key.

    Args:
        rows: Read once, `BLOCK_ROWS` at a time, so that they may be created on demand; `Row.key` is ignored.

    Raises:
        ValueError: A row is of another kind, a value has a wrong type, or two rows have the same 64-bit key.
    """
    table = pa.concat_tables([SCHEMA.empty_table(), *(_build_block(kind, block) for block in iter_blocks(rows))])
    keys = table["key"].to_numpy()
    order = np.argsort(keys)
    duplicates = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(duplicates):
        start = duplicates[0]
        one, two = (table["id"][i].as_py() for i in sorted(order[start : start + 2].tolist()))
        raise ValueError(f"{kind} {one!r} and {kind} {two!r} share the 64-bit key of a row. Rename one of them.")
    return table.take(order).combine_chunks()


def iter_blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in lists of `BLOCK_ROWS`."""
    iterator = iter(rows)
    return iter(lambda: list(islice(iterator, BLOCK_ROWS)), [])


def _build_block(kind: str, rows: list[Row]) -> pa.Table:
    for row in rows:
        if row.kind != kind:
            raise ValueError(f"The metadata row of {kind} {row.id!r} has kind {row.kind!r}. Set it to {kind!r}.")
    *contents, _, columns = zip(*rows, strict=True)
    try:
        arrays = [
            pa.array(values, SCHEMA.field(name).type) for name, values in zip(CONTENT_COLUMNS, contents, strict=True)
        ]
        content = zip(*(array.to_pylist() for array in arrays), strict=True)  # values after conversion to the types
        keys = np.fromiter((compute_key(Row(*values)) for values in content), np.int64, len(rows))
        return pa.Table.from_arrays([pa.array(keys), *arrays, pa.array(columns, pa.string())], schema=SCHEMA)
    except CONVERSION_ERRORS as error:
        raise ValueError(
            f"A metadata row does not fit the columns {', '.join(COLUMNS)}: {error}. Pass values of their types."
        ) from error


def table_digest(table: pa.Table) -> str:
    """Return the SHA-256 of a table: of its keys, which are hashes of its rows, and of the columns beside them."""
    hasher = hashlib.sha256(table["key"].to_numpy().tobytes())
    if table["columns"].null_count < table.num_rows:
        for text in table["columns"].to_pylist():
            hasher.update((text or "").encode() + b"\0")
    return hasher.hexdigest()


def expand_columns(table: pa.Table, types: Mapping[str, ColumnType]) -> pa.Table:
    """Replace the column `columns` by one column for each of the user's own: texts, numbers, lists of texts."""
    values = [parse_columns(text) for text in table["columns"].to_pylist()]
    table = table.drop_columns(["columns"])
    for name, kind in types.items():
        arrow_type = {"number": pa.float64(), "texts": pa.list_(pa.string())}.get(kind, pa.string())
        table = table.append_column(name, pa.array([row.get(name) for row in values], arrow_type))
    return table


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet, zstd, in row groups of `ROW_GROUP_ROWS`."""
    with open(path, "wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def write_lookup(path: Path, table: pa.Table) -> None:
    """Write a table to a new SQLite file with indexes on key, id and image id.

    Raises:
        OSError: SQLite cannot write, for example because the disk is full.
    """
    types = {name: "INTEGER" if pa.types.is_integer(SCHEMA.field(name).type) else "TEXT" for name in COLUMNS}
    types["key"] = "INTEGER PRIMARY KEY"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # an incomplete file is deleted, never recovered
        connection.execute(f"CREATE TABLE items ({', '.join(f'{name} {kind}' for name, kind in types.items())})")
        connection.execute("BEGIN")
        marks = ", ".join("?" * len(COLUMNS))
        for batch in table.to_batches(max_chunksize=ROW_GROUP_ROWS):
            values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            connection.executemany(f"INSERT INTO items VALUES ({marks})", values)
        connection.execute("CREATE UNIQUE INDEX by_id ON items (id)")
        connection.execute("CREATE INDEX by_image ON items (image_id)")
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:  # its message, "disk I/O error", names neither file nor cause
        full = error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_WRITE)
        raise OSError(errno.ENOSPC if full else errno.EIO, f"SQLite cannot write: {error}", str(path)) from error
    finally:
        connection.close()
