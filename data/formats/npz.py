"""Read third-party .npz files array by array, and write .npz files.

A zip file may declare any size, so the sizes are compared with the file before anything is decompressed.
"""

import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from data.formats.arrays import Header, read_header, read_values, translate_read_errors
from data.io.limits import MAX_IMAGE_BYTES, MAX_IMAGE_ROWS, check_expansion, check_limit
from data.unpickle import load_restricted

SKIP_BYTES = 1 << 20  # read at a time from rows that are skipped


class Npz:
    """A .npz file whose arrays are read by name, one at a time; close it, or use it as a context manager.

    Args:
        path: The file.
        allow_pickle: Names of arrays that may be a pickle of plain values.
        max_bytes: Maximum number of bytes of all arrays; None: what the size of the file allows.

    Raises:
        ValueError: The file or an array is not valid; the message has the file, the array and the reason.
    """

    def __init__(self, path: Path, allow_pickle: Collection[str] = (), max_bytes: int | None = None):
        self.path, self._allowed = Path(path), frozenset(allow_pickle)
        with translate_read_errors(self.path):
            self._zip = zipfile.ZipFile(self.path)
            try:
                self._members = _find_arrays(self._zip, self.path.stat().st_size, max_bytes)
            except ValueError:
                self._zip.close()
                raise

    def __enter__(self) -> "Npz":
        return self

    def __exit__(self, *_: Any) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """Return the names of the arrays, in the order of the file."""
        return list(self._members)

    def read(self, name: str) -> Any:
        """Read an array into memory.

        An array of Python objects is read only if `allow_pickle` lists it, and as plain values.
        """
        with translate_read_errors(self.path, name), self._open(name) as (file, header, available):
            if header.dtype.hasobject and name in self._allowed:
                return load_restricted(file)
            return read_values(file, header, available)

    def header(self, name: str) -> Header:
        """Read the header of an array."""
        with translate_read_errors(self.path, name), self._open(name) as (_, header, _):
            return header

    def iter_rows(self, name: str, lengths: Iterable[int]) -> Iterator[np.ndarray]:
        """Read the rows of an array in blocks, from the first row to the last.

        Args:
            name: Name of the array.
            lengths: Number of rows of each block.

        Yields:
            One array per block; memory is used for one block at a time. A block that is too large for an image (see
            `check_image_shape`) is skipped, and its array has no rows.

        Raises:
            ValueError: The array is in column-major order, or not valid.
        """
        with translate_read_errors(self.path, name), self._open(name) as (file, header, _):
            if header.fortran and len(header.shape) > 1:
                raise ValueError("it is in column-major order and cannot be read in blocks; save it with order='C'")
            row_shape = header.shape[1:]
            for length in lengths:
                block = Header((length, *row_shape), header.dtype, False)
                if length > MAX_IMAGE_ROWS or block.nbytes > MAX_IMAGE_BYTES:
                    _skip(file, block.nbytes)
                    block = Header((0, *row_shape), header.dtype, False)
                yield read_values(file, block, block.nbytes)

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[BinaryIO, Header, int]]:
        if name not in self._members:
            raise ValueError(f"the file has no such array, only {', '.join(self._members) or 'none'}")
        member = self._members[name]
        with self._zip.open(member) as file:
            stream = cast(BinaryIO, file)
            header = read_header(stream)
            yield stream, header, member.file_size - stream.tell()


def _find_arrays(archive: zipfile.ZipFile, size: int, max_bytes: int | None) -> dict[str, zipfile.ZipInfo]:
    """Find the arrays of a zip file by name, and check that their bytes fit the size of the file."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"it has the array {name!r} twice")
        if name != member.filename:
            members[name] = member
    if sum(member.compress_size for member in members.values()) > size:
        raise ValueError("its arrays overlap: they have more compressed bytes than the file")
    total = sum(member.file_size for member in members.values())
    check_expansion("it", size, total)
    if max_bytes is not None:
        check_limit("it", total, max_bytes, "bytes of arrays")
    return members


def _skip(file: BinaryIO, num_bytes: int) -> None:
    while num_bytes > 0 and (data := file.read(min(num_bytes, SKIP_BYTES))):
        num_bytes -= len(data)
    if num_bytes > 0:
        raise ValueError(f"it ends {num_bytes:,} bytes too early")


def write_npz(file: BinaryIO, arrays: dict[str, Any], compressed: bool = True) -> None:
    """Write a .npz file of arrays, as numpy does."""
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
