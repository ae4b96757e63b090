"""One open shard: its small columns in memory, its rows read by `preadv` straight into the caller's array.

`preadv` names its place in the file, so that threads and forked workers can share one descriptor; and a descriptor
keeps its file while a compaction unlinks the name.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from data.manifest.schema import Field
from data.store.shard_file import open_shard

MAX_BUFFERS = 1024  # of one preadv: IOV_MAX of Linux
PRELOAD_BLOCK = 1 << 17  # bytes: at this size Linux caches in large pages; read at random, in 4 kB ones, 2.6 x slower
NOWAIT = getattr(os, "RWF_NOWAIT", 0)
Segment = tuple[int, int, int]  # first row in the shard, rows, first row in the output


@dataclass(frozen=True)
class _Column:
    tail: tuple[int, ...]  # shape of one row
    row_bytes: int
    offset: int | None  # of row 0, bytes into the file; None: only HDF5 can read it


@dataclass
class ReadRequest:
    """Bytes that stand together in a shard, and the buffers that they go to, one after another."""

    field: str
    offset: int
    buffers: list[memoryview]
    left: int


class ShardReader:
    """A shard opened to read. Raises FileNotFoundError or ValueError naming a file that is missing or damaged."""

    def __init__(self, path: Path, fields: dict[str, Field]):
        self._fd, self._file = -1, None
        self.path = path
        with open_shard(path) as file:
            self.ids: list[str] = list(file["ids"].asstr()[:])
            self.hashes = [value.decode() for value in file["hashes"][:]]
            self.offsets: np.ndarray = file["offsets"][:]  # (items + 1,) int64, rows
            self.crc32: np.ndarray = file["crc32"][:]  # (items,) uint32
            self.per_item = {name: file[name][:] for name, field in fields.items() if field.per == "item"}
            self._columns = {n: _column(file, n, f, self._rows) for n, f in fields.items() if f.per == "row"}
            lengths = {len(self.ids), len(self.hashes), len(self.crc32), len(self.offsets) - 1}
            lengths |= {len(values) for values in self.per_item.values()}
            if len(lengths) != 1 or self.offsets[0] != 0 or (np.diff(self.offsets) < 0).any():
                raise ValueError("its ids, hashes, offsets and checksums do not belong together")
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.bytes = os.fstat(self._fd).st_size
        if any(column.offset is None for column in self._columns.values()):
            self._file = h5py.File(path, "r", locking=False)

    @property
    def _rows(self) -> int:
        return int(self.offsets[-1])

    def row_shape(self, field: str) -> tuple[int, ...]:
        """Shape of one row of a field."""
        return self._columns[field].tail

    def close(self) -> None:
        """Give the descriptor back; reading is an error from then on."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        self.close()

    def preload(self) -> None:
        """Read the file from end to end, and forget what was read: the system keeps it as long as it has room."""
        block, place = memoryview(bytearray(PRELOAD_BLOCK)), 0
        while done := os.preadv(self._fd, [block], place):
            place += done

    def start_read(self, field: str, segments: Sequence[Segment], out: np.ndarray) -> list[ReadRequest]:
        """Read what the system has in memory; what it has not, it is asked to fetch, and `finish` will read.

        `out` (rows, ...) is contiguous and has the field's dtype. So a warm batch costs one call a segment, and the
        disk sees the whole of a cold one at once.
        """
        if self._fd < 0:
            raise ValueError(f"{self.path}: the store was closed; open it again.")
        column = self._columns[field]
        if column.offset is None:
            for start, rows, to in segments:  # never by a list of places: HDF5 is 30 times slower at that
                self._file[field].read_direct(out, np.s_[start : start + rows], np.s_[to : to + rows])
            return []
        unread = []
        for request in _requests(field, column, segments, out):
            self._read(request, NOWAIT)
            if request.left:
                if NOWAIT:
                    os.posix_fadvise(self._fd, request.offset, request.left, os.POSIX_FADV_WILLNEED)
                unread.append(request)
        return unread

    def finish_read(self, requests: Iterable[ReadRequest]) -> None:
        """Read what `begin` left. Raises ValueError naming file and item where the file ends too early."""
        for request in requests:
            while request.left:
                if self._read(request, 0) == 0:
                    column = self._columns[request.field]
                    row = (request.offset - column.offset) // column.row_bytes
                    item = self.ids[int(np.searchsorted(self.offsets, row, side="right")) - 1]
                    raise ValueError(
                        f"{self.path} ends inside the {request.field} of {item}: it was truncated after it was opened; "
                        "restore it, or delete the store's folder."
                    )

    def _read(self, request: ReadRequest, flags: int) -> int:
        """One preadv: the request is shortened by the bytes it gave."""
        try:
            done = os.preadv(self._fd, request.buffers[:MAX_BUFFERS], request.offset, flags)
        except OSError:
            if not flags:
                raise
            return 0  # not in memory, or a file system that cannot say
        request.offset, request.left = request.offset + done, request.left - done
        behind = done if request.left else 0
        while behind:
            first = request.buffers[0]
            if behind < len(first):
                request.buffers[0] = first[behind:]
                break
            behind -= len(request.buffers.pop(0))
        return done


def _column(file: h5py.File, name: str, field: Field, rows: int) -> _Column:
    """Where a dataset's rows are. Chunked, compressed or converted ones of other writers are left to HDF5."""
    dataset = file[name]
    if dataset.shape[0] != rows:
        raise ValueError(f"{name} has {dataset.shape[0]} rows, the offsets say {rows}")
    own = dataset.dtype == np.dtype(field.dtype) and not dataset.external and not file.userblock_size
    offset = dataset.id.get_offset() if own and dataset.chunks is None else None
    tail = dataset.shape[1:]
    return _Column(tail, int(np.dtype(field.dtype).itemsize * np.prod(tail, dtype=int)), offset if rows else 0)


def _requests(field: str, column: _Column, segments: Sequence[Segment], out: np.ndarray) -> list[ReadRequest]:
    """Segments as bytes and buffers; those that follow each other in the file share a request."""
    size, found = column.row_bytes, []
    view, end = memoryview(out.reshape(-1).view("uint8")), -1
    for start, rows, to in segments:
        buffer = view[to * size : (to + rows) * size]
        if start == end and len(found[-1].buffers) < MAX_BUFFERS:
            found[-1].buffers.append(buffer)
            found[-1].left += len(buffer)
        else:
            found.append(ReadRequest(field, column.offset + start * size, [buffer], len(buffer)))
        end = start + rows
    return found
