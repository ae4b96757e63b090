"""Read third-party .npy and .npz files safely: no pickles, and no more memory than `data.io.limits` allows.

A header may declare any shape, so it is compared with the size of the file before an array is allocated.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

from data.io.files import TRANSIENT_ERRNOS
from data.io.limits import MAX_ARRAY_BYTES, MAX_IMAGE_BYTES, MAX_IMAGE_ROWS, check_limit

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


def check_image_shape(what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Check the shape (rows, ...) of the features of one image before they are read.

    Raises:
        ValueError: They have more rows or bytes than `data.io.limits` allows.
    """
    check_limit(what, shape[0] if shape else 1, MAX_IMAGE_ROWS, "rows")
    check_limit(what, prod(shape) * dtype.itemsize, MAX_IMAGE_BYTES)


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


def read_values(file: BinaryIO, header: Header, available: int, max_bytes: int = MAX_ARRAY_BYTES) -> np.ndarray:
    """Read the values after a header; the file has `available` more bytes."""
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects (a pickle), which are not supported")
    if header.nbytes > available:
        raise ValueError(
            f"its header declares {header.shape} {header.dtype}, {header.nbytes:,} bytes, but it has {available:,}"
        )
    check_limit("it", header.nbytes, max_bytes)
    data = file.read(header.nbytes)
    if len(data) != header.nbytes:
        raise ValueError(f"it ends after {len(data):,} of {header.nbytes:,} bytes")
    return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


@contextmanager
def translate_read_errors(path: Path, array: str = "") -> Iterator[None]:
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
        is_no_zip = isinstance(error, zipfile.BadZipFile) and "not a zip file" in str(error)
        reason = "it is not an .npz file, or a part of one; write or copy it again" if is_no_zip else error
        raise ValueError(f"{location} cannot be read: {reason}") from error


def load_npy(path: Path, max_bytes: int = MAX_ARRAY_BYTES) -> np.ndarray:
    """Read a .npy file of at most `max_bytes` bytes of values into memory.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is not valid; the message has the file and the reason.
        OSError: A transient I/O error occurred.
    """
    with translate_read_errors(path), open(path, "rb") as file:
        header = read_header(file)
        return read_values(file, header, os.fstat(file.fileno()).st_size - file.tell(), max_bytes)


def map_npy(path: Path) -> np.ndarray:
    """Map a .npy file read-only, so that memory is used only for the rows that are read.

    Raises the same errors as `load_npy`.
    """
    with translate_read_errors(path):
        with open(path, "rb") as file:
            header = read_header(file)
            start, available = file.tell(), os.fstat(file.fileno()).st_size - file.tell()
        if header.dtype.hasobject or header.nbytes > available:
            read_values(io.BytesIO(), header, available)  # raises with the reason
        if header.nbytes == 0:
            return np.empty(header.shape, header.dtype)
        return np.memmap(path, header.dtype, "r", start, header.shape, "F" if header.fortran else "C")


def write_header(file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
    """Write the header of a .npy file in row-major order; the caller then writes the values."""
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
