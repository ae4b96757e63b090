"""Read third-party .npy and .npz files safely: no pickles, and no more memory than the file can fill.

A header may declare any shape, so it is compared with the size of the file before an array is allocated.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, cast

import numpy as np

from data.io.files import TRANSIENT_ERRNOS
from data.unpickle import load_restricted

MAX_ARRAY_BYTES = 1 << 30  # of an array that is read at once: 36 rows of 2,048 numbers have 0.3 MB
DEFLATE_RATIO = 1032  # maximum number of bytes that one byte of a zip decompresses to
MAX_HEADER = 10_000  # characters
READ_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, SyntaxError, TypeError, zipfile.BadZipFile, zlib.error),
    *(NotImplementedError, RuntimeError),  # of zipfile: unknown compression, passwords
)


def is_transient_error(error: BaseException) -> bool:
    """Return whether another try to read the same file may succeed."""
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS


@dataclass(frozen=True)
class Header:
    """Header of a .npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    """Whether the values are in column-major order."""

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of the values."""
        return prod(self.shape) * self.dtype.itemsize


def read_header(file: BinaryIO) -> Header:
    """Read the header of a .npy file, up to the first byte of the values.

    Raises:
        ValueError: It is not a valid header.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"it is a .npy file of version {version}; versions 1.0 to 3.0 are supported")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version == (3, 0):  # 2.0 in UTF-8: only names of fields differ, and arrays with fields are errors
        read = np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file, max_header_size=MAX_HEADER)
    except TokenError as error:  # numpy does not convert the error of its tokenizer
        raise ValueError(f"its header cannot be read ({error})") from error
    if any(side < 0 for side in shape) or dtype.fields or dtype.itemsize == 0:
        raise ValueError(f"its header declares an array of {shape} {dtype}, which is impossible")
    return Header(shape, dtype, fortran)


def _read_values(file: BinaryIO, header: Header, available: int) -> np.ndarray:
    """Read the values after a header; the file has `available` more bytes."""
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects (a pickle), which are not supported")
    if header.nbytes > available:
        raise ValueError(
            f"its header declares {header.shape} {header.dtype}, {header.nbytes:,} bytes, but it has {available:,}"
        )
    if header.nbytes > MAX_ARRAY_BYTES:
        raise ValueError(f"its header declares {header.nbytes:,} bytes; at most {MAX_ARRAY_BYTES:,} are read at once")
    data = file.read(header.nbytes)
    if len(data) != header.nbytes:
        raise ValueError(f"it ends after {len(data):,} of {header.nbytes:,} bytes")
    return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


@contextmanager
def _translate_read_errors(path: Path, array: str = "") -> Iterator[None]:
    """Convert errors that a damaged file causes into a ValueError that names it; others pass unchanged.

    Args:
        path: File that is read.
        array: Name of the array of an .npz file that is read.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except READ_ERRORS as error:
        if is_transient_error(error):
            raise
        location = f"{path}: array {array!r}" if array else str(path)
        raise ValueError(f"{location} cannot be read: {error}") from error


def load_npy(path: Path) -> np.ndarray:
    """Read a .npy file into memory.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is not valid; the message has the file and the reason.
        OSError: A transient I/O error occurred.
    """
    with _translate_read_errors(path), open(path, "rb") as file:
        header = read_header(file)
        return _read_values(file, header, os.fstat(file.fileno()).st_size - file.tell())


def map_npy(path: Path) -> np.ndarray:
    """Map a .npy file read-only, so that memory is used only for the rows that are read.

    Raises the same errors as `load_npy`.
    """
    with _translate_read_errors(path):
        with open(path, "rb") as file:
            header = read_header(file)
            start, available = file.tell(), os.fstat(file.fileno()).st_size - file.tell()
        if header.dtype.hasobject or header.nbytes > available:
            _read_values(io.BytesIO(), header, available)  # raises with the reason
        if header.nbytes == 0:
            return np.empty(header.shape, header.dtype)
        return np.memmap(path, header.dtype, "r", start, header.shape, "F" if header.fortran else "C")


class Npz:
    """A .npz file whose arrays are read by name, one at a time; close it, or use it as a context manager.

    Args:
        path: The file.
        allow_pickle: Names of arrays that may be a pickle of plain values.

    Raises:
        ValueError: The file or an array is not valid; the message has the file, the array and the reason.
    """

    def __init__(self, path: Path, allow_pickle: Collection[str] = ()):
        self.path, self._allowed = Path(path), frozenset(allow_pickle)
        with _translate_read_errors(self.path):
            self._zip = zipfile.ZipFile(self.path)
        self._members = {i.filename.removesuffix(".npy"): i for i in self._zip.infolist() if i.filename[-4:] == ".npy"}

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
        with _translate_read_errors(self.path, name), self._open(name) as (file, header, available):
            if header.dtype.hasobject and name in self._allowed:
                return load_restricted(file)
            return _read_values(file, header, available)

    def header(self, name: str) -> Header:
        """Read the header of an array."""
        with _translate_read_errors(self.path, name), self._open(name) as (_, header, _):
            return header

    def iter_rows(self, name: str, lengths: Iterable[int]) -> Iterator[np.ndarray]:
        """Read the rows of an array in blocks, from the first row to the last.

        Args:
            name: Name of the array.
            lengths: Number of rows of each block.

        Yields:
            One array per block; memory is used for one block at a time.

        Raises:
            ValueError: The array is in column-major order, or not valid.
        """
        with _translate_read_errors(self.path, name), self._open(name) as (file, header, _):
            if header.fortran and len(header.shape) > 1:
                raise ValueError("it is in column-major order and cannot be read in blocks; save it with order='C'")
            row_shape = header.shape[1:]
            for length in lengths:
                block = Header((length, *row_shape), header.dtype, False)
                yield _read_values(file, block, block.nbytes)

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[BinaryIO, Header, int]]:
        if name not in self._members:
            raise ValueError(f"the file has no such array, only {', '.join(self._members) or 'none'}")
        member = self._members[name]
        if member.file_size > DEFLATE_RATIO * member.compress_size + 64:
            raise ValueError(f"{member.compress_size:,} bytes cannot decompress to {member.file_size:,}")
        with self._zip.open(member) as file:
            stream = cast(BinaryIO, file)
            header = read_header(stream)
            yield stream, header, member.file_size - stream.tell()


def write_header(file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
    """Write the header of a .npy file in row-major order; the caller then writes the values."""
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def write_npz(file: BinaryIO, arrays: dict[str, Any], compressed: bool = True) -> None:
    """Write a .npz file of arrays, as numpy does."""
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
