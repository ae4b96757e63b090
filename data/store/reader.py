"""One open shard: small columns are in memory, rows are read by `preadv` directly into the caller's array.

`preadv` takes the offset in the file as an argument, so threads and forked workers can share one descriptor. An open
descriptor keeps the file readable after a compaction has deleted its name.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from data.manifest.schema import Field
from data.store.shard_file import RESTORE_HINT, open_shard

MAX_BUFFERS = 1024  # of one preadv: IOV_MAX of Linux
PRELOAD_BLOCK = 1 << 17  # bytes; at this size Linux caches large pages, random reads of 4 kB pages are 2.6 x slower
NOWAIT = getattr(os, "RWF_NOWAIT", 0)
Segment = tuple[int, int, int]  # first row in the shard, number of rows, first row in the output


@dataclass(frozen=True)
class _Column:
    row_shape: tuple[int, ...]
    row_bytes: int
    offset: int | None  # of row 0, bytes from the start of the file; None: only HDF5 can read the column


@dataclass
class ReadRequest:
    """A range of bytes of a shard, and the buffers that it fills, in order."""

    field: str
    offset: int
    """First byte that is not read yet."""
    buffers: list[memoryview]
    left: int
    """Number of bytes that are not read yet."""


class ShardReader:
    """A shard opened to read.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is damaged.
    """

    def __init__(self, path: Path, fields: Mapping[str, Field]):
        self._fd = -1
        self._file: h5py.File | None = None
        self.path = path
        with open_shard(path) as file:
            self.ids: list[str] = list(file["ids"].asstr()[:])
            self.hashes = [value.decode() for value in file["hashes"][:]]
            self.offsets: np.ndarray = file["offsets"][:]  # (items + 1,) int64, rows
            self.crc32: np.ndarray = file["crc32"][:]  # (items,) uint32
            self.per_item = {name: file[name][:] for name, field in fields.items() if field.per == "item"}
            self._columns = {
                name: _locate_column(file, name, field, self._num_rows)
                for name, field in fields.items()
                if field.per == "row"
            }
            lengths = {len(self.ids), len(self.hashes), len(self.crc32), len(self.offsets) - 1}
            lengths |= {len(values) for values in self.per_item.values()}
            if len(lengths) != 1 or self.offsets[0] != 0 or (np.diff(self.offsets) < 0).any():
                raise ValueError("its ids, hashes, offsets and checksums do not belong together")
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.bytes = os.fstat(self._fd).st_size
        if any(column.offset is None for column in self._columns.values()):
            self._file = h5py.File(path, "r", locking=False)

    @property
    def _num_rows(self) -> int:
        return int(self.offsets[-1])

    def row_shape(self, field: str) -> tuple[int, ...]:
        """Return the shape of one row of a column."""
        return self._columns[field].row_shape

    def close(self) -> None:
        """Close the file; later reads raise ValueError."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        self.close()

    def preload(self) -> None:
        """Read the whole file into the page cache of the operating system."""
        block, position = memoryview(bytearray(PRELOAD_BLOCK)), 0
        while num_read := os.preadv(self._fd, [block], position):
            position += num_read

    def start_read(self, field: str, segments: Sequence[Segment], out: np.ndarray) -> list[ReadRequest]:
        """Read what the page cache holds, and ask the system to fetch the rest.

        A cached batch costs one call per segment, and the disk sees all requests of an uncached one at once.

        Args:
            field: Name of the column.
            segments: Rows to read, in the order of the file.
            out: (rows, ...) contiguous array of the column's dtype.

        Returns:
            The requests that `finish_read` must complete.

        Raises:
            ValueError: The store was closed.
        """
        if self._fd < 0:
            raise ValueError(f"{self.path} was closed with its store. Open the store again.")
        column = self._columns[field]
        if column.offset is None:
            assert self._file is not None
            for start, rows, to in segments:  # never by a list of row numbers: HDF5 is 30 times slower at that
                self._file[field].read_direct(out, np.s_[start : start + rows], np.s_[to : to + rows])
            return []
        pending = []
        for request in _make_requests(field, column.row_bytes, column.offset, segments, out):
            self._read(request, NOWAIT)
            if request.left:
                if NOWAIT:
                    os.posix_fadvise(self._fd, request.offset, request.left, os.POSIX_FADV_WILLNEED)
                pending.append(request)
        return pending

    def finish_read(self, requests: Iterable[ReadRequest]) -> None:
        """Read what `start_read` left.

        Raises:
            ValueError: The file ends too early; the message has file and item.
        """
        for request in requests:
            while request.left:
                if self._read(request, 0) == 0:
                    raise ValueError(
                        f"{self.path} ends inside the {request.field} of {self._find_item(request)}: it was truncated "
                        f"after it was opened. {RESTORE_HINT}"
                    )

    def _find_item(self, request: ReadRequest) -> str:
        column = self._columns[request.field]
        assert column.offset is not None
        row = (request.offset - column.offset) // column.row_bytes
        return self.ids[int(np.searchsorted(self.offsets, row, side="right")) - 1]

    def _read(self, request: ReadRequest, flags: int) -> int:
        """Call preadv once; shorten the request by the bytes read, and return their number."""
        try:
            num_read = os.preadv(self._fd, request.buffers[:MAX_BUFFERS], request.offset, flags)
        except OSError:
            if not flags:
                raise
            return 0  # not in the page cache, or a file system without RWF_NOWAIT
        request.offset, request.left = request.offset + num_read, request.left - num_read
        to_drop = num_read if request.left else 0
        while to_drop:
            first = request.buffers[0]
            if to_drop < len(first):
                request.buffers[0] = first[to_drop:]
                break
            to_drop -= len(request.buffers.pop(0))
        return num_read


def _locate_column(file: h5py.File, name: str, field: Field, num_rows: int) -> _Column:
    """Find where the rows of a column are; HDF5 must read chunked, compressed or converted columns."""
    dataset = file[name]
    if dataset.shape[0] != num_rows:
        raise ValueError(f"{name} has {dataset.shape[0]} rows, but the offsets end at {num_rows}")
    is_plain = dataset.dtype == np.dtype(field.dtype) and not dataset.external and not file.userblock_size
    offset = dataset.id.get_offset() if is_plain and dataset.chunks is None else None
    shape = dataset.shape[1:]
    row_bytes = int(np.dtype(field.dtype).itemsize * np.prod(shape, dtype=int))
    return _Column(shape, row_bytes, offset if num_rows else 0)


def _make_requests(
    field: str, row_bytes: int, offset: int, segments: Sequence[Segment], out: np.ndarray
) -> list[ReadRequest]:
    """Convert segments of rows to byte ranges; segments that are adjacent in the file share a request."""
    requests: list[ReadRequest] = []
    view, end = memoryview(out.reshape(-1).view("uint8").data), -1
    for start, rows, to in segments:
        buffer = view[to * row_bytes : (to + rows) * row_bytes]
        if start == end and len(requests[-1].buffers) < MAX_BUFFERS:
            requests[-1].buffers.append(buffer)
            requests[-1].left += len(buffer)
        else:
            requests.append(ReadRequest(field, offset + start * row_bytes, [buffer], len(buffer)))
        end = start + rows
    return requests
