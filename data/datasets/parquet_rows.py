"""Rows of a Parquet table as JSON has them: texts, numbers, dates, lists; columns of bytes are not read."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.io.limits import check_expansion

BATCH_ROWS = 4_096  # rows that are Python objects at the same time


def iter_parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, without columns of bytes or of values that contain bytes.

    Raises:
        ValueError: The file cannot be read, has a column twice, or decompresses to more than `data.io.limits` allows.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = [field.name for field in file.schema_arrow if not has_bytes(field.type)]
            if len(set(names)) < len(names):
                name = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"{path} has the column {name!r} twice. Rename or remove one of them.")
            check_expansion(str(path), path.stat().st_size, _count_bytes(file, set(names)))
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
                columns = [[_simplify(value) for value in column.to_pylist()] for column in batch.columns]
                yield from (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read: {str(error).rstrip('.')}. Write the file again.") from error


def has_bytes(kind: pa.DataType) -> bool:
    """Return whether values of a type are bytes, or contain some."""
    if pa.types.is_struct(kind) or pa.types.is_nested(kind):
        return any(has_bytes(kind.field(i).type) for i in range(kind.num_fields))
    is_variable = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return is_variable or pa.types.is_fixed_size_binary(kind)


def _count_bytes(file: pq.ParquetFile, names: set[str]) -> int:
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in names)


def _simplify(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value
