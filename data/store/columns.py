"""Columns of one item or one shard: their type, their checksum, and the check that they can be stored."""

import zlib
from collections.abc import Mapping

import numpy as np

from data.manifest.schema import Field

Columns = Mapping[str, np.ndarray]
"""Column name -> array: (rows, ...) for one value per row; (...) for one value per item, (items, ...) of a shard."""


def compute_crc32(columns: Columns, fields: Mapping[str, Field]) -> int:
    """Compute the CRC-32 of an item's columns, in the order of `fields`."""
    checksum = 0
    for name in fields:
        checksum = zlib.crc32(np.ascontiguousarray(columns[name]).tobytes(), checksum)
    return checksum


def get_item_columns(index: int, columns: Columns, offsets: np.ndarray, fields: Mapping[str, Field]) -> Columns:
    """Return the columns of one item of a shard, as views.

    Args:
        index: Position of the item in the shard.
        columns: Columns of the whole shard.
        offsets: (items + 1,) int64: first row of each item, and the number of rows.
        fields: Columns of the store by name.
    """
    rows = slice(offsets[index], offsets[index + 1])
    return {name: columns[name][rows] if field.per == "row" else columns[name][index] for name, field in fields.items()}


def find_storage_problem(columns: Columns, fields: Mapping[str, Field]) -> str:
    """Return why an item's columns cannot be stored, or an empty text.

    Numbers that overflow the dtype (float16: above 65,504) and NaN cannot be stored.
    """
    lengths = {len(columns[name]) for name in fields if fields[name].per == "row"}
    if lengths == {0}:
        return "it has no rows; an item needs at least one row"
    if len(lengths) != 1 or 0 in lengths:
        return f"its fields have {sorted(lengths)} rows; they must have the same number of rows, at least 1"
    with np.errstate(over="ignore", invalid="ignore"):
        stored = {name: columns[name].astype(field.dtype) for name, field in fields.items()}
    invalid = [name for name, values in stored.items() if not np.isfinite(values).all()]
    return f"its {' and '.join(invalid)} are not finite as stored" if invalid else ""
