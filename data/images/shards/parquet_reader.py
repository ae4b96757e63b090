"""Read images of a Parquet file by their rows."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.io.stamps import Stamp

CURSOR_ROWS = 16  # rows of images that are read at once from a large row group
MAX_GROUP_BYTES = 128 << 20  # of the images of a row group that is kept

_File = tuple[str, tuple[int, ...]]
"""Path and stamp of a Parquet file."""
_GroupKey = tuple[_File, int]
"""A file, and the first row of one of its row groups."""


class ParquetReader:
    """Reads images by their rows. Of small row groups the last ones are kept; a large one is read from row to row.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: OrderedDict[_GroupKey, list[bytes | None]] = OrderedDict()
        self._cursor: _Cursor | None = None

    def read(self, path: Path, stamp: Stamp, column: str, row: int) -> bytes:
        """Read the image of a row.

        Args:
            path: Parquet file.
            stamp: Stamp of the file.
            column: Column of the images.
            row: Number of the row in the file.

        Raises:
            ValueError: The file cannot be read, or the row has no image.
        """
        try:
            with self._lock:
                content = self._read((str(path), tuple(stamp)), column, row)
        except (pa.ArrowException, OSError, IndexError) as error:
            raise ValueError(f"{path} cannot be read in row {row:,}: {error}") from error
        if content is None:
            raise ValueError(f"row {row:,} of {path} has no image")
        return content

    def _read(self, file: _File, column: str, row: int) -> bytes | None:
        for (known, first), contents in self._groups.items():
            if known == file and first <= row < first + len(contents):
                self._groups.move_to_end((known, first))
                return contents[row - first]
        cursor = self._cursor
        if cursor is None or cursor.file != file or not cursor.advance(row):
            cursor = self._open_group(file, column, row)
        return cursor.contents[row - cursor.first]

    def _open_group(self, file: _File, column: str, row: int) -> "_Cursor":
        """Open the row group of a row: keep the images of a small one, and read a large one from row to row."""
        source = pq.ParquetFile(file[0])
        first, number = _find_group(source.metadata, row)
        group = source.metadata.row_group(number)
        chunks = (group.column(i) for i in range(group.num_columns))
        size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
        if size > MAX_GROUP_BYTES:
            batches = source.iter_batches(CURSOR_ROWS, row_groups=[number], columns=[column])
            self._cursor = _Cursor(file, (_get_contents(batch.column(0)) for batch in batches), first)
            self._cursor.advance(row)
            return self._cursor
        with source:
            contents = _get_contents(source.read_row_group(number, columns=[column]).column(0).combine_chunks())
        self._groups[file, first] = contents
        while len(self._groups) > 1 and sum(map(_count_bytes, self._groups.values())) > MAX_GROUP_BYTES:
            self._groups.popitem(last=False)
        return _Cursor(file, iter(()), first, contents)


@dataclass
class _Cursor:
    """A place in a row group whose images are read in order."""

    file: _File
    batches: Iterator[list[bytes | None]]
    first: int
    """Row of the first one of `contents`."""
    contents: list[bytes | None] = field(default_factory=list)

    def advance(self, row: int) -> bool:
        """Go on until a row; return whether it was found."""
        while row >= self.first + len(self.contents):
            following = next(self.batches, None)
            if following is None:
                return False
            self.first, self.contents = self.first + len(self.contents), following
        return row >= self.first


def _find_group(metadata: pq.FileMetaData, row: int) -> tuple[int, int]:
    """Return the first row and the number of the row group that has a row."""
    first = 0
    for number in range(metadata.num_row_groups):
        if row < first + metadata.row_group(number).num_rows:
            return first, number
        first += metadata.row_group(number).num_rows
    raise IndexError(f"it has {first:,} rows")


def _get_contents(column: pa.Array) -> list[bytes | None]:
    values = column.field("bytes") if pa.types.is_struct(column.type) else column
    contents: list[bytes | None] = values.to_pylist()
    return contents


def _count_bytes(contents: list[bytes | None]) -> int:
    return sum(len(content) for content in contents if content is not None)
