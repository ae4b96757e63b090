"""What the metadata of a collection hold: columns with their types, values and ranges, and rows chosen at random.

The search page makes its filter form of them.
"""

import heapq
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.config import ColumnType
from index.metadata.filters import CAPTION, FILTER_COLUMNS, NO_TYPES, make_column_sql
from index.metadata.lookup import SELECT, MetadataLookup, ShardLookup
from index.metadata.schema import NUMBERS, Row

MAX_VALUES = 50  # of a column that are listed; a column with more has no list


@dataclass(frozen=True)
class Column:
    """A column that filters may name, and what its rows hold."""

    name: str
    type: ColumnType
    values: tuple[tuple[str, int], ...] = ()
    """Values of a column of texts, or of lists of texts, with the number of their rows, most frequent first; empty if
    there are more than `MAX_VALUES` of them."""
    minimum: int | float | str | None = None
    """Smallest value of a column of numbers or dates."""
    maximum: int | float | str | None = None
    """Largest value of a column of numbers or dates."""


def describe_columns(
    rows: MetadataLookup, captions: MetadataLookup | None, types: Mapping[str, ColumnType] = NO_TYPES
) -> tuple[Column, ...]:
    """Describe the columns of a collection in which at least one live row has a value.

    Args:
        rows: The rows of the collection.
        captions: The captions of the index, which the column `caption` is about; None if there are none.
        types: Types of the columns of the user's own, by name.
    """
    sources = [
        _Source(name, "number" if name in NUMBERS else "text", name) for name in FILTER_COLUMNS if name != CAPTION
    ]
    for name, kind in types.items():
        table = f"items, json_each(items.columns, '$.{name}')" if kind == "texts" else "items"
        sources.append(_Source(name, kind, "value" if kind == "texts" else make_column_sql(name), table))
    described = [
        _describe_range(rows, source) if source.type in ("number", "date") else _describe_texts(rows, source)
        for source in sources
    ]
    columns = [column for column in described if column is not None]
    return (*columns, Column(CAPTION, "text")) if captions is not None else tuple(columns)


@dataclass(frozen=True)
class _Source:
    """Where the values of a column are."""

    name: str
    type: ColumnType
    sql: str
    """SQL of a value"""
    table: str = "items"
    """SQL of the rows"""


def sample_rows(rows: MetadataLookup, count: int, splits: tuple[str, ...] = ()) -> list[Row]:
    """Choose live rows as if at random, and always the same ones: those with the smallest keys, which are hashes.

    Args:
        rows: The rows of a collection.
        count: Maximum number of rows.
        splits: Splits that the rows must have; any if empty.
    """
    condition, values = _make_live_condition(rows)
    if splits:
        condition += f" AND split IN ({', '.join('?' * len(splits))})"
        values = [*values, *splits]
    statement = f"{SELECT} items WHERE {condition} ORDER BY key LIMIT {int(count)}"
    found = (Row._make(line) for lookup in rows.lookups for line in lookup.query(statement, values))
    return heapq.nsmallest(count, found, key=lambda row: row.key or 0)


def _describe_range(rows: MetadataLookup, source: _Source) -> Column | None:
    condition, values = _make_live_condition(rows)
    statement = f"SELECT MIN({source.sql}), MAX({source.sql}) FROM {source.table} WHERE {condition}"
    ranges = [lookup.query(statement, values)[0] for lookup in rows.lookups]
    ranges = [(minimum, maximum) for minimum, maximum in ranges if minimum is not None]
    if not ranges:
        return None
    minimum, maximum = min(low for low, _ in ranges), max(high for _, high in ranges)
    return Column(source.name, source.type, minimum=minimum, maximum=maximum)


def _describe_texts(rows: MetadataLookup, source: _Source) -> Column | None:
    condition, values = _make_live_condition(rows)
    counts: Counter[str] = Counter()
    for lookup in rows.lookups:
        if not _has_few_values(lookup, source):  # a list of all values would take long to make
            return Column(source.name, source.type)
        where = f"{condition} AND {source.sql} IS NOT NULL"
        statement = f"SELECT {source.sql}, COUNT(*) FROM {source.table} WHERE {where} GROUP BY 1"
        counts.update(dict(lookup.query(statement, values)))
    if not counts:
        return None
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return Column(source.name, source.type, tuple(ordered) if len(ordered) <= MAX_VALUES else ())


def _has_few_values(lookup: ShardLookup, source: _Source) -> bool:
    """Return whether a shard has at most `MAX_VALUES` values of a column; SQLite stops at the next one."""
    where = f"{source.sql} IS NOT NULL LIMIT {MAX_VALUES + 1}"
    different = f"SELECT DISTINCT {source.sql} FROM {source.table} WHERE {where}"
    return bool(lookup.query(f"SELECT COUNT(*) FROM ({different})", ())[0][0] <= MAX_VALUES)


def _make_live_condition(rows: MetadataLookup) -> tuple[str, list[Any]]:
    """Return an SQL condition that leaves out deleted rows, and its parameters."""
    if not rows.deleted_keys:
        return "TRUE", []
    return "items.key NOT IN (SELECT value FROM json_each(?))", [json.dumps(sorted(rows.deleted_keys))]
