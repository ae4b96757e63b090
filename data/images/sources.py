"""Where the bytes of an image are: a file, a range of bytes of a tar shard, or a row of a Parquet file.

The path of a member is that of its shard and its name: `shards/00000.tar/000012.jpg`. This is the only module that
opens the paths of images.
"""

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from data.images.shards.list_cache import PARQUET_SUFFIX, ShardListCache
from data.images.shards.members import ShardList
from data.io.digests import sha256_bytes, sha256_file
from data.io.stamps import read_stamp
from data.text import printable

if TYPE_CHECKING:
    from data.images.shards.parquet_reader import ParquetReader

SHARD_SUFFIXES = (".tar", PARQUET_SUFFIX)
MAX_BYTES = 512 << 20  # of a file: 64 million pixels of six bytes, uncompressed, are 384 MB
_PARTS = tuple(f"{suffix}/" for suffix in SHARD_SUFFIXES)
_lists = ShardListCache()
_known_shards = set[str]()  # each path is asked for several times per image


def read_shard_list(path: Path) -> ShardList | None:
    """Read the list of a shard; None for a Parquet file without images.

    Raises:
        ValueError: The shard cannot be read; the message has the reason.
        OSError: It is missing, or a transient I/O error occurred.
    """
    return _lists.get(os.fspath(path))


def find_shard(path: Path | str) -> tuple[str, str] | None:
    """Find the shard that a path leads into; None if it is the path of a file.

    Returns:
        The path of the shard, and the name of the member, which need not exist.
    """
    text = os.fspath(path)
    lower = text.lower()
    for part in _PARTS:
        start = lower.find(part)
        while start >= 0:
            end = start + len(part) - 1
            path = text[:end]
            if path in _known_shards or os.path.isfile(path):
                _known_shards.add(path)
                return path, text[end + 1 :]
            start = lower.find(part, end)
    return None


def find_image_container(path: Path | str) -> str | None:
    """Find the regular file that holds an image: the file itself, or the shard of a member that exists.

    A pipe or a device, which would block, is none.
    """
    shard = find_shard(path)
    if shard is not None:
        return shard[0] if has_member(*shard) else None
    return os.fspath(path) if os.path.isfile(path) else None


def has_member(shard: str, name: str) -> bool:
    """Return whether a shard has an image of this name."""
    try:
        found = _lists.get(shard)
    except ValueError:
        return False
    return found is not None and name in found.images


def stat_image(path: Path | str) -> os.stat_result:
    """Return the stat of the file that holds an image: of a member, that of its shard.

    Raises:
        OSError: There is no such file.
    """
    shard = find_shard(path)
    return os.stat(path if shard is None else shard[0])


def count_image_bytes(path: Path | str) -> int:
    """Return the number of bytes of an image; 0 if that is not known before it is read, as of a row of Parquet.

    Raises:
        OSError: There is no such file.
    """
    shard = find_shard(path)
    if shard is None:
        return os.stat(path).st_size
    try:
        found = _lists.get(shard[0])
    except (ValueError, OSError):
        return 0
    return 0 if found is None else found.images.get(shard[1], (0, 0))[1]


def read_image(path: Path) -> bytes:
    """Read the bytes of an image: one read of a file, of a range of a tar shard, or of rows of a Parquet file.

    Raises:
        FileNotFoundError: There is no such file or member.
        ValueError: It has more than `MAX_BYTES`, or its shard cannot be read.
        OSError: A transient I/O error occurred.
    """
    shard = find_shard(path)
    if shard is not None:
        return _read_member(Path(shard[0]), shard[1])
    if not path.is_file():  # a pipe would block
        raise FileNotFoundError(printable(f"No image at {path}. Check the dataset's folder of images."))
    _check_size(path.stat().st_size)
    return path.read_bytes()


def _read_member(path: Path, name: str) -> bytes:
    found = _lists.get(os.fspath(path))
    if found is None or name not in found.images:
        raise FileNotFoundError(
            printable(f"No image {name} in the shard {path}. Check the dataset's folder of images.")
        )
    offset, size = found.images[name]
    if found.column:
        content = _open_parquet_reader().read(path, read_stamp(path), found.column, offset)
        _check_size(len(content))
        return content
    _check_size(size)
    with open(path, "rb", buffering=0) as file:
        content = os.pread(file.fileno(), size, offset)
    if len(content) < size:
        raise ValueError(f"the shard {path} ends after {len(content):,} of {size:,} bytes of {name}; it was cut")
    return content


def read_image_head(path: Path, count: int) -> bytes:
    """Read the first bytes of an image, as `read_image` does."""
    if find_shard(path) is not None:
        return read_image(path)[:count]
    with open(path, "rb") as file:
        return file.read(count)


@cache
def _open_parquet_reader() -> "ParquetReader":
    from data.images.shards.parquet_reader import ParquetReader  # lazy: most datasets need no pyarrow

    return ParquetReader()


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise ValueError(f"its {num_bytes:,} bytes are more than {MAX_BYTES:,}")


def hash_image(path: Path) -> str:
    """Return the SHA-256 of the bytes of an image, 64 hex digits.

    Raises:
        ValueError: Its shard cannot be read.
        OSError: There is no such file or member, or it cannot be read.
    """
    shard = find_shard(path)
    return sha256_file(path) if shard is None else sha256_bytes(_read_member(Path(shard[0]), shard[1]))
