"""numpy files of others, read safely: never a pickle, never more memory than the file can fill.

A header may announce any shape, so it is held against the bytes that are there before an array is made.
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
from typing import Any, BinaryIO

import numpy as np

from data.io.files import TRANSIENT_ERRNOS
from data.unpickle import load_restricted

MAX_ARRAY_BYTES = 1 << 30  # of an array that is read whole: 36 rows of 2,048 numbers are 0.3 MB
DEFLATE_RATIO = 1032  # no byte of a zip gives more
MAX_HEADER = 10_000  # characters
READ_ERRORS = (OSError, ValueError, KeyError, EOFError, SyntaxError, TypeError, zipfile.BadZipFile, zlib.error)


READ_ERRORS += (NotImplementedError, RuntimeError)  # zipfile's, for compression it does not know and for passwords


def is_transient_error(error: BaseException) -> bool:
    """Whether an error may be gone when the same file is read again."""
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS


@dataclass(frozen=True)
class Header:
    """What a .npy says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * self.dtype.itemsize


def read_header(file: BinaryIO) -> Header:
    """The header of a .npy; the stream then stands at the values. Raises ValueError if it is none."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"it is a .npy of version {version}; 1.0 to 3.0 are read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version == (3, 0):  # as 2.0, in UTF-8: only names of fields differ, and arrays with fields are not read
        read = np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file, max_header_size=MAX_HEADER)
    except TokenError as error:  # numpy lets its tokenizer's through
        raise ValueError(f"its header cannot be read ({error})") from error
    if any(side < 0 for side in shape) or dtype.fields or dtype.itemsize == 0:
        raise ValueError(f"it announces an array of {shape} {dtype}, which cannot be")
    return Header(shape, dtype, fortran)


def _values(file: BinaryIO, header: Header, available: int) -> np.ndarray:
    """The values after a header, of which `available` bytes are there."""
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects (a pickle), which are not read")
    if header.nbytes > available:
        raise ValueError(f"it announces {header.shape} {header.dtype}, {header.nbytes:,} bytes, and has {available:,}")
    if header.nbytes > MAX_ARRAY_BYTES:
        raise ValueError(f"it announces {header.nbytes:,} bytes; at most {MAX_ARRAY_BYTES:,} are read at once")
    data = file.read(header.nbytes)
    if len(data) != header.nbytes:
        raise ValueError(f"it breaks off after {len(data):,} of {header.nbytes:,} bytes")
    return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def load_npy(path: Path) -> np.ndarray:
    """A .npy read whole. Raises FileNotFoundError, or ValueError naming the file and the reason."""
    try:
        with open(path, "rb") as file:
            header = read_header(file)
            return _values(file, header, os.fstat(file.fileno()).st_size - file.tell())
    except FileNotFoundError:
        raise
    except READ_ERRORS as error:
        if is_transient_error(error):
            raise
        raise ValueError(f"{path} cannot be read: {error}") from error


def map_npy(path: Path) -> np.ndarray:
    """A .npy mapped read-only: memory is what is looked at. Raises as `load_npy`."""
    try:
        with open(path, "rb") as file:
            header = read_header(file)
            start, available = file.tell(), os.fstat(file.fileno()).st_size - file.tell()
        if header.dtype.hasobject or header.nbytes > available:
            _values(io.BytesIO(), header, available)
        if header.nbytes == 0:
            return np.empty(header.shape, header.dtype)
        return np.memmap(path, header.dtype, "r", start, header.shape, "F" if header.fortran else "C")
    except FileNotFoundError:
        raise
    except READ_ERRORS as error:
        if is_transient_error(error):
            raise
        raise ValueError(f"{path} cannot be read: {error}") from error


class Npz:
    """The arrays of a .npz by name, read when asked for. Raises ValueError naming file, array and reason."""

    def __init__(self, path: Path, allow_pickle: Collection[str] = ()):
        self.path, self._allowed = Path(path), frozenset(allow_pickle)
        with self._named(""):
            self._zip = zipfile.ZipFile(self.path)
        self._members = {i.filename.removesuffix(".npy"): i for i in self._zip.infolist() if i.filename[-4:] == ".npy"}

    def __enter__(self) -> "Npz":
        return self

    def __exit__(self, *_: Any) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """Names of the arrays, in their order in the file."""
        return list(self._members)

    def read(self, name: str) -> Any:
        """An array, read whole; one of Python objects only if it was allowed by name, and then only plain values."""
        with self._named(name), self._open(name) as (file, header, available):
            if header.dtype.hasobject and name in self._allowed:
                return load_restricted(file)
            return _values(file, header, available)

    def header(self, name: str) -> Header:
        """Shape and dtype of an array."""
        with self._named(name), self._open(name) as (_, header, _):
            return header

    def iter_rows(self, name: str, lengths: Iterable[int]) -> Iterator[np.ndarray]:
        """An array's rows, so many at a time, from the first to the last: memory is one piece."""
        with self._named(name), self._open(name) as (file, header, _):
            if header.fortran and len(header.shape) > 1:
                raise ValueError("it is stored column by column and cannot be read in pieces; save it with order='C'")
            tail = header.shape[1:]
            for length in lengths:
                part = Header((length, *tail), header.dtype, False)
                yield _values(file, part, part.nbytes)

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[BinaryIO, Header, int]]:
        if name not in self._members:
            raise ValueError(f"there is no such array; it has {', '.join(self._members) or 'none'}")
        member = self._members[name]
        if member.file_size > DEFLATE_RATIO * member.compress_size + 64:
            raise ValueError(f"{member.compress_size:,} bytes are said to hold {member.file_size:,}, which cannot be")
        with self._zip.open(member) as file:
            header = read_header(file)  # type: ignore[arg-type]
            yield file, header, member.file_size - file.tell()  # type: ignore[misc]

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except READ_ERRORS as error:
            if is_transient_error(error):
                raise
            place = f"{self.path}: array {name!r}" if name else f"{self.path}"
            raise ValueError(f"{place} cannot be read: {error}") from error


def write_header(file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
    """The header of a .npy in row order; the values are to follow, in pieces."""
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def write_npz(file: BinaryIO, arrays: dict[str, Any], compressed: bool = True) -> None:
    """A .npz of arrays, as numpy writes it."""
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
