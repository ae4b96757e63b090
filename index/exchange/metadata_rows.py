"""Read metadata rows from third-party Parquet files: every value is checked, and named by file, row and column.

A row without a valid id is skipped as invalid. Another value that is not valid becomes unknown (None), and is counted.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.io import MAX_SIDE, MAX_TEXT_BYTES, check_expansion
from data.text import find_id_problem
from index.metadata.schema import Row

BATCH_ROWS = 16_384  # rows that are decoded at the same time
MAX_EXACT_FLOAT = 2**53  # floats above it do not have every whole number
Convert = Callable[[Any], Any]  # of one value that is not null; raises ValueError with the reason


@dataclass
class ImportedRows:
    """Rows of some files, and what was wrong in them."""

    rows: list[Row | None] = field(default_factory=list)
    """one entry per row of the files; None: the row is invalid"""
    locations: list[tuple[Path, int]] = field(default_factory=list)
    """file, and number of the first of its entries in `rows`"""
    invalid_rows: list[tuple[str, str]] = field(default_factory=list)
    """file, row and column, and reason of each invalid row"""
    unknown_values: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """(file, column) -> row and value of each value that is not valid and counts as unknown"""

    def locate(self, position: int) -> str:
        """Return file and row of an entry of `rows`."""
        path, first = [(path, first) for path, first in self.locations if first <= position][-1]
        return f"{path.name} row {position - first}"

    def warnings(self) -> list[str]:
        """Return one line per file and column with values that count as unknown."""
        return [
            f"{name} column {column!r}: {len(values):,} values are not valid and count as unknown, the first in "
            f"{values[0]}"
            for (name, column), values in self.unknown_values.items()
        ]


@dataclass(frozen=True)
class ColumnChoice:
    """Which columns of a file fill which columns of a row; of several candidates the first value that is not null."""

    id: str
    """column of the ids; "": ids are positions"""
    texts: Mapping[str, Sequence[str]]
    numbers: Mapping[str, Sequence[str]]


def read_metadata_rows(
    paths: Sequence[Path], choose_columns: Callable[[Path, list[str]], ColumnChoice]
) -> ImportedRows:
    """Read the rows of Parquet files; memory for text is bounded by the sizes of the files.

    Args:
        paths: The files, in the order of their vectors.
        choose_columns: Function of a file and the names of its columns.

    Raises:
        ValueError: A file cannot be read, a column has another type than its values need, or a file decompresses to
            more than `data.io.limits` allows.
    """
    result = ImportedRows()
    for path in paths:
        result.locations.append((path, len(result.rows)))
        try:
            with pq.ParquetFile(path) as file:
                _read_file(path, file, choose_columns(path, file.schema_arrow.names), result)
        except MemoryError as error:
            raise ValueError(
                f"The metadata in {path} needs more memory than there is: {error}. Split the file."
            ) from error
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"The metadata in {path} cannot be read: {str(error).rstrip('.')}. Write the file again."
            ) from error
    return result


def count_rows(path: Path) -> int:
    """Count the rows of a Parquet file by its footer.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"The metadata in {path} cannot be read: {str(error).rstrip('.')}. Write the file again."
        ) from error


def _read_file(path: Path, file: pq.ParquetFile, columns: ColumnChoice, result: ImportedRows) -> None:
    candidates = {name for names in (*columns.texts.values(), *columns.numbers.values()) for name in names}
    names = [name for name in file.schema_arrow.names if name in candidates | {columns.id}]
    if duplicate := next((name for name in names if names.count(name) > 1), ""):
        raise ValueError(f"{path} has the column {duplicate!r} more than once. Remove or rename all but one of them.")
    number_names = {name for names in columns.numbers.values() for name in names}
    for name in names:
        kind = "id" if name == columns.id else "size" if name in number_names else "text"
        _check_type(path, name, file.schema_arrow.field(name).type, kind)
    _check_size(path, file, names)
    # Text that occurs often is one object: a few kilobytes of Parquet may have it a million times.
    texts = [name for name in names if _is_text(file.schema_arrow.field(name).type)]
    size, num_text_bytes, first = path.stat().st_size, 0, len(result.rows)
    with pq.ParquetFile(path, read_dictionary=texts) as source:
        for batch in source.iter_batches(BATCH_ROWS, columns=names):
            values = {name: _decode(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
            num_text_bytes += sum(len(v) for n in texts for v in values[n] if v is not None)
            check_expansion(f"The text of {path}", size, num_text_bytes)
            for i in range(batch.num_rows):
                row = {name: column[i] for name, column in values.items()}
                result.rows.append(_make_row(path, len(result.rows) - first, row, columns, result))


def _check_size(path: Path, file: pq.ParquetFile, names: Sequence[str]) -> None:
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    total = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in names)
    check_expansion(str(path), path.stat().st_size, total)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return is_string or is_bytes or pa.types.is_fixed_size_binary(kind)


def _check_type(path: Path, name: str, kind: pa.DataType, needed: str) -> None:
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not (pa.types.is_null(kind) or _is_text(kind) or (is_number and needed != "text")):
        expected = {"id": "text or whole numbers", "size": "whole numbers", "text": "text"}[needed]
        raise ValueError(
            f"{path}: column {name!r} is {kind}; it must have {expected}. Convert the column, or remove it."
        )


def _decode(column: pa.Array) -> list[Any]:
    """Convert a column to Python values; text stays bytes, because it may be invalid UTF-8."""
    if not pa.types.is_dictionary(column.type):
        return column.cast(pa.large_binary()).to_pylist() if _is_text(column.type) else column.to_pylist()
    kind, words = column.type.value_type, column.dictionary
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        words = words.view(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary())
    distinct = words.to_pylist()
    return [None if i is None else distinct[i] for i in column.indices.to_pylist()]


def _make_row(
    path: Path, number: int, values: Mapping[str, Any], columns: ColumnChoice, result: ImportedRows
) -> Row | None:
    name = f"{len(result.rows):09d}"
    if columns.id:
        try:
            name = convert_id(values[columns.id])
        except ValueError as error:
            result.invalid_rows.append((f"{path.name} row {number} column {columns.id!r}", str(error)))
            return None
    found = dict(_convert_values(path, number, values, columns, result))
    return Row(kind="image", id=name, **{"image_id": name, **found})


def _convert_values(
    path: Path, number: int, values: Mapping[str, Any], columns: ColumnChoice, result: ImportedRows
) -> Iterator[tuple[str, Any]]:
    """Convert the first value of each target; one that is not valid is None and is listed in `result`."""
    for candidates, convert in ((columns.texts, convert_text), (columns.numbers, convert_size)):
        for target, names in candidates.items():
            column = next((name for name in names if not _is_null(values.get(name))), None)
            if column is None:
                continue
            try:
                yield target, convert(values[column])
            except ValueError as error:
                unknown = result.unknown_values.setdefault((path.name, column), [])
                unknown.append(f"row {number}: {error}")


def _is_null(value: Any) -> bool:
    """Return whether a value is absent; pandas writes NaN for null."""
    return value is None or value != value


def convert_text(value: Any) -> str:
    """Convert UTF-8 bytes to text.

    Raises:
        ValueError: The value is something else, or too long.
    """
    if not isinstance(value, bytes):
        raise ValueError(f"{str(value)[:60]} is not a text")
    if len(value) > MAX_TEXT_BYTES:
        raise ValueError(f"the text has {len(value):,} bytes; at most {MAX_TEXT_BYTES:,} are read")
    if b"\0" in value:  # at which SQLite's `like` ends a text
        raise ValueError(f"{value[:30]!r} contains the character NUL")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{value[:30]!r} is not UTF-8 text") from error


def convert_id(value: Any) -> str:
    """Convert the id of a row, text or a whole number, to text.

    pandas turns a column of whole numbers with a null into one of floats.

    Raises:
        ValueError: The value is null, empty, or something else.
    """
    if _is_null(value):
        raise ValueError("null is not an id")
    if isinstance(value, float):
        if not value.is_integer() or abs(value) > MAX_EXACT_FLOAT:
            raise ValueError(f"{value} is not a text or a whole number that a float holds exactly")
        value = int(value)
    name = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if problem := find_id_problem(name):
        raise ValueError(f"{name[:60]!r} is not an id: {problem}")
    return name if isinstance(value, int) else convert_text(value)


def convert_size(value: Any) -> int:
    """Convert a width or height.

    Raises:
        ValueError: It is not a whole number of pixels from 1 to `MAX_SIDE`.
    """
    try:
        number = float(value.decode("ascii") if isinstance(value, bytes) else value)
    except ValueError:
        number = math.nan
    if not (1 <= number <= MAX_SIDE and number.is_integer()):
        shown = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        raise ValueError(f"{shown[:60]} is not a size of 1 to {MAX_SIDE:,} pixels")
    return int(number)
