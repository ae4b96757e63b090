"""List the images of a Parquet file: a column of bytes, or of structs with `bytes` and `path`.

Both are written by `datasets` and img2dataset.
"""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.images.shards.members import MAX_MEMBERS, ShardList
from data.io.limits import check_expansion
from data.text import find_id_problem

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "photo", "image_bytes", "bytes")
KEY_COLUMNS = ("key", "__key__", "file_name", "id", "image_id")  # the first one with a text for each row names images
BATCH_ROWS = 4_096  # rows of fields that are Python objects at the same time
IMAGE_ROWS = 16  # rows of images that are read at once


def list_parquet(path: Path) -> ShardList | None:
    """List the images of a Parquet file; None if it has no column of them.

    Raises:
        ValueError: The file cannot be read, or several of its columns may hold the images.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            column = _find_image_column(schema)
            if column is None:
                return None
            if file.metadata.num_rows > MAX_MEMBERS:
                raise ValueError(f"it has more than {MAX_MEMBERS:,} rows. Split it")
            shard = ShardList(column=column)
            for row, (name, fields, link) in enumerate(_iter_rows(path, file, column)):
                _add_row(shard, row, name, fields, link)
            return shard
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it cannot be read as Parquet: {str(error).rstrip('.')}") from error


def _find_image_column(schema: pa.Schema) -> str | None:
    """Find the column of the images."""
    names = [one.name for one in schema if _is_bytes(one.type) or _get_bytes_type(one.type) is not None]
    for name in IMAGE_COLUMNS:
        if name in names:
            return name
    if len(names) > 1:
        raise ValueError(f"its columns {', '.join(names)} hold bytes. Rename that of the images to `image`")
    return names[0] if names else None


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _get_bytes_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type of the field `bytes` of a struct; None for other types."""
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return None
    found = kind.field("bytes").type
    return found if _is_bytes(found) else None


def _iter_rows(path: Path, file: pq.ParquetFile, column: str) -> Iterator[tuple[str, str, str]]:
    """Yield for each row the name of its image, its other fields as JSON, and the path of an image it only names."""
    kind = file.schema_arrow.field(column).type
    has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    fields = [one.name for one in file.schema_arrow if one.name != column and not _has_bytes(one.type)]
    key = next((name for name in KEY_COLUMNS if name in fields), "")
    columns = [*fields, f"{column}.path"] if has_path else fields
    _check_size(path, file, columns)
    row = 0
    for number in range(file.metadata.num_row_groups):
        missing = _find_missing_bytes(file, number, column) if has_path else set()
        start = row
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[number], columns=columns):
            for values in batch.to_pylist():
                image = values.pop(column, None) or {}
                named = str(image.get("path") or "")
                name = values.get(key) if key else named
                text = json.dumps(values, default=_to_json)
                yield name if isinstance(name, str) else str(name or ""), text, named if row - start in missing else ""
                row += 1
        if not columns:  # a file with images alone
            count = file.metadata.row_group(number).num_rows
            yield from (("", "{}", "") for _ in range(count))


def _has_bytes(kind: pa.DataType) -> bool:
    return _is_bytes(kind) or (
        pa.types.is_nested(kind) and any(_has_bytes(kind.field(i).type) for i in range(kind.num_fields))
    )


def _to_json(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _check_size(path: Path, file: pq.ParquetFile, columns: list[str]) -> None:
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    total = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema in columns or chunk.path_in_schema.partition(".")[0] in columns
    )
    check_expansion(str(path), path.stat().st_size, total)


def _find_missing_bytes(file: pq.ParquetFile, number: int, column: str) -> set[int]:
    """Find the rows of a row group without bytes of their own; no image is read if all have some."""
    group = file.metadata.row_group(number)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == f"{column}.bytes")
    statistics = chunk.statistics
    if statistics is not None and statistics.has_null_count and statistics.null_count in (0, group.num_rows):
        return set(range(group.num_rows)) if statistics.null_count else set()
    missing, row = set[int](), 0
    for batch in file.iter_batches(IMAGE_ROWS, row_groups=[number], columns=[f"{column}.bytes"]):
        nulls = batch.column(0).field("bytes").is_null().to_pylist()
        missing.update(row + i for i, is_null in enumerate(nulls) if is_null)
        row += len(nulls)
    return missing


def _add_row(shard: ShardList, row: int, name: str, fields: str, link: str) -> None:
    """Add the image of a row, named by its key or its row."""
    if link:
        shard.links.append((link, fields))
        return
    name = name or f"{row:09d}"
    if name.startswith("/") or ".." in name.split("/"):
        shard.add_problem(f"row {row:,}", f"its name {name[:80]!r} leaves the shard")
    elif reason := find_id_problem(name):
        shard.add_problem(f"row {row:,}", f"its name is not valid: {reason}")
    elif name in shard.images:
        shard.add_problem(f"row {row:,}", f"the shard has the name {name[:80]!r} twice; the first row is used")
    else:
        shard.images[name] = (row, 0)
        shard.texts.append((f"{name}.json", fields))
