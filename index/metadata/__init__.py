"""Metadata of the vectors in an index.

In: rows, SQL conditions and filter expressions. Out: Parquet and SQLite files, rows and keys. It is independent of
vectors or versions.
"""

from index.metadata.columns import Column, describe_columns, sample_rows
from index.metadata.filters import parse_filter
from index.metadata.lookup import FilterTimeoutError, limit_filter_time
from index.metadata.schema import Row

__all__ = [
    "Column",
    "FilterTimeoutError",
    "Row",
    "describe_columns",
    "limit_filter_time",
    "parse_filter",
    "sample_rows",
]
