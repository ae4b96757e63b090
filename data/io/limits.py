"""Limits on what a reader makes of a file, so that a small file cannot fill the memory: one place for the numbers.

Compressed files are compared with their size before anything is decompressed: `check_expansion`. Everything else that a
file declares (rows, bytes, values) is compared with a fixed number: `check_limit`.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path

FREE_BYTES = 64 << 20  # a file of any size may decompress to this
MAX_EXPANSION = 50  # bytes that one byte of a larger file may decompress to; features compress to a third
MAX_SHARED_TENSORS = 4  # tensors of a checkpoint per byte of its file: some share their values, such as embeddings
MAX_ARRAY_BYTES = 1 << 30  # of an array that is read at once
MAX_SIDE = 2**31 - 1  # pixels of an image: stores and indexes have 32 bits
MAX_IMAGE_ROWS = 10_000  # regions of an image; detectors give 10 to 100, grids about 600
MAX_IMAGE_BYTES = 256 << 20  # of all arrays of an image: 10,000 rows of 2,048 float32 numbers have 82 MB
MAX_SHARD_BYTES = 256 << 20  # of the rows that an import holds before it writes them
MAX_CHUNK_BYTES = 256 << 20  # of an HDF5 chunk, which is decompressed at once
MAX_TEXT_BYTES = 1 << 20  # of one value of a table
MAX_JSON_BYTES = 512 << 20  # the captions of COCO have 144 MB


def check_limit(what: str, value: int, limit: int, unit: str = "bytes") -> None:
    """Check a number that a file declares.

    Args:
        what: What has the number, for the message.
        value: The number.
        limit: Its maximum.
        unit: What is counted.

    Raises:
        ValueError: The number is above the limit.
    """
    if value > limit:
        raise ValueError(f"{what} has {value:,} {unit}; at most {limit:,} are read")


def check_expansion(what: str, stored_bytes: int, expanded_bytes: int) -> None:
    """Check the bytes that a compressed file declares against the bytes that it has.

    Args:
        what: The file or a part of it, for the message.
        stored_bytes: Number of bytes on disk.
        expanded_bytes: Number of bytes that they decompress to.

    Raises:
        ValueError: It is more than `FREE_BYTES` and more than `MAX_EXPANSION` times the bytes on disk.
    """
    limit = max(FREE_BYTES, MAX_EXPANSION * stored_bytes)
    if expanded_bytes > limit:
        raise ValueError(
            f"{what} has {stored_bytes:,} bytes, which decompress to {expanded_bytes:,}; at most {limit:,} are read"
        )


def check_checkpoint(path: Path, tensor_bytes: Iterable[int] = ()) -> None:
    """Check that a file of torch or of a pickle holds the bytes of its tensors.

    Args:
        path: The file.
        tensor_bytes: Bytes of each tensor; views of one storage count each, because later steps copy them.

    Raises:
        ValueError: It is a zip file with compressed entries, which torch never writes, or the tensors have more than
            `MAX_SHARED_TENSORS` times the bytes of the file.
    """
    size, total = Path(path).stat().st_size, sum(tensor_bytes)
    if total > MAX_SHARED_TENSORS * size:
        raise ValueError(f"its tensors have {total:,} bytes, but the file has {size:,}: they share their values")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise ValueError("its entries are compressed, but torch never compresses a checkpoint")
