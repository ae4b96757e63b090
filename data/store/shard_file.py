"""One shard, read: an immutable HDF5 file of rows and offsets, with the id, hash and CRC-32 of each item.

The layout is that of the `pos_boxes` files of ban-vqa. Every column is contiguous, so that its rows can be read without
HDF5. The trailer follows the HDF5 content: its SHA-256, 32 bytes, which HDF5 ignores.
"""

import errno
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from data.io.digests import sha256_file
from data.io.files import TRANSIENT_ERRNOS
from data.manifest.manifest import ByteSpan, InvalidItem, ShardEntry
from data.manifest.schema import FIELDS, Field
from data.store.columns import compute_crc32, get_item_columns

ROW_COLUMNS = {name for fields in FIELDS.values() for name, field in fields.items() if field.per == "row"}
COLUMNS_OF_ALL = {"offsets", "ids", "hashes", "crc32"}  # every shard has these, whatever its kind
TRAILER_BYTES = hashlib.sha256().digest_size  # bytes
READ_BLOCK = 1 << 20  # bytes read at a time
RESTORE_HINT = (  # the other shards of the store are kept
    "Restore the file, or run `tern store verify FOLDER --unlist-damaged`, which keeps the other shards, and extract "
    "or import again."
)


@dataclass(frozen=True)
class Problem:
    """Damage of a shard, or of the rows of one of its items."""

    path: Path
    message: str
    item: str = ""
    """Id of the item; empty if the whole file is concerned."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@contextmanager
def open_shard(path: Path) -> Iterator[h5py.File]:
    """Open a shard to read it.

    Yields:
        The open HDF5 file; an error inside the block other than a transient I/O error means that it is damaged.

    Raises:
        FileNotFoundError: The shard is missing.
        ValueError: The shard is damaged.
        OSError: Too many files are open, or the machine failed to read the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is listed in the manifest, but the file is missing. {RESTORE_HINT}")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise OSError(
                error.errno, f"{path} cannot be opened: too many files are open. Merge shards with `tern store compact`"
            ) from error
        raise ValueError(f"{path} is not a readable shard ({error}). {RESTORE_HINT}") from error
    with file:
        try:
            yield file
        except Exception as error:  # flipped bits can raise any exception inside HDF5
            if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
                raise
            raise ValueError(f"{path} is damaged ({error}). {RESTORE_HINT}") from error


def check_metadata_crc(path: Path, entry: ShardEntry) -> None:
    """Check the size of a shard and the CRC-32 of its metadata, before HDF5 opens it.

    Ids, hashes and offsets decide which rows belong to an item, and HDF5 can loop forever on flipped bits. The rows
    have checksums of their own, which `verify_store` compares. A missing file passes: `open_shard` reports it.

    Raises:
        ValueError: The file is not the one that the manifest lists.
    """
    path = Path(path)
    if not path.is_file():
        return
    if path.stat().st_size != entry.bytes or _compute_metadata_crc(path, entry.row_spans) != entry.metadata_crc32:
        raise ValueError(f"{path} is not the file that the manifest lists. {RESTORE_HINT}")


def _compute_metadata_crc(path: Path, row_spans: Sequence[ByteSpan]) -> int:
    """Compute the CRC-32 of the bytes of a file outside `row_spans`."""
    checksum, position = 0, 0
    with open(path, "rb") as file:
        for start, size in [*row_spans, (path.stat().st_size, 0)]:
            file.seek(position)
            left = start - position
            while left > 0 and (block := file.read(min(left, READ_BLOCK))):
                checksum = zlib.crc32(block, checksum)
                left -= len(block)
            position = start + size
    return checksum


def read_shard_items(path: Path) -> tuple[list[str], list[str]]:
    """Read the ids and the content hashes of the items of a shard; raises as `open_shard`."""
    with open_shard(path) as file:
        return list(file["ids"].asstr()[:]), [value.decode() for value in file["hashes"][:]]


def read_shard_hashes(path: Path) -> dict[str, str]:
    """Read id -> content hash of the items of a shard, invalid ones included; raises as `open_shard`."""
    invalid = read_invalid_items(path)
    return dict(zip(*read_shard_items(path), strict=True)) | {item.id: item.hash for item in invalid}


def read_unlisted_shard_hashes(path: Path) -> dict[str, str]:
    """Read the hashes of a shard that no manifest lists, if its trailer is valid.

    HDF5 can loop forever on a flipped bit, so it opens such a file only after this check.

    Raises:
        ValueError: The trailer is not the SHA-256 of the content.
    """
    if not has_valid_trailer(path):
        raise ValueError(
            f"{path} is damaged: its trailer is not the SHA-256 of its content. Run the stage again; it writes these "
            "items again."
        )
    return read_shard_hashes(path)


def has_valid_trailer(path: Path) -> bool:
    """Return whether a file has the bytes that `write_shard` wrote; reads all of it."""
    hasher, left = hashlib.sha256(), path.stat().st_size - TRAILER_BYTES
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(left, READ_BLOCK))):
            hasher.update(block)
            left -= len(block)
        return left == 0 and file.read() == hasher.digest()


def read_shard_entry(path: Path) -> tuple[ShardEntry, list[str], list[InvalidItem]]:
    """Read a finished shard's manifest entry, the ids of its items, and its invalid items."""
    invalid = read_invalid_items(path)
    with open_shard(path) as file:
        ids, num_rows = list(file["ids"].asstr()[:]), int(file["offsets"][-1])
        # Rows that HDF5 has compressed or stored in chunks have no offset; they count as metadata then.
        spans = [(file[name].id.get_offset(), file[name].id.get_storage_size()) for name in ROW_COLUMNS & set(file)]
    row_spans = tuple(sorted((start, size) for start, size in spans if start is not None and size))
    entry = ShardEntry(
        file=path.name,
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        items=len(ids),
        rows=num_rows,
        row_spans=row_spans,
        metadata_crc32=_compute_metadata_crc(path, row_spans),
    )
    return entry, ids, invalid


def read_invalid_items(path: Path) -> list[InvalidItem]:
    """Read the invalid items of a shard; raises as `open_shard`."""
    with open_shard(path) as file:
        return [InvalidItem(**item) for item in json.loads(file.attrs["invalid_items"])]


def find_shard_damage(path: Path, fields: Mapping[str, Field]) -> list[Problem]:
    """Find damage of a shard, item by item; the list is empty if all columns and checksums are right."""
    try:
        with open_shard(path) as file:
            names = set(file) - COLUMNS_OF_ALL
            if names != set(fields) or file["features"].dtype != fields["features"].dtype:
                raise ValueError("its fields are not those of the store")
            ids, offsets, checksums = file["ids"].asstr()[:], file["offsets"][:], file["crc32"][:]
            columns = {name: file[name][:] for name in fields}
            json.loads(file.attrs["invalid_items"])
            return [
                Problem(path, f"the rows of {name} do not have the checksum they were written with", name)
                for i, name in enumerate(ids)
                if compute_crc32(get_item_columns(i, columns, offsets, fields), fields) != checksums[i]
            ]
    except Exception as error:  # flipped bits can raise any exception inside HDF5
        return [Problem(path, f"unreadable: {error}")]
