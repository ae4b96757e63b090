"""One shard: an immutable HDF5 file of flat rows and offsets, with ids, hashes and a CRC an item.

Layout: that of ban-vqa's `pos_boxes` files. Every column is contiguous: readers need no HDF5 to get at its rows.
Behind the HDF5 file stands its SHA-256, the seal (32 bytes, which HDF5 passes over).
"""

import errno
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.io.digests import sha256_file
from data.io.files import TRANSIENT_ERRNOS, atomic_write
from data.manifest.manifest import manifest_fields, read_store_manifest
from data.manifest.schema import FIELDS, Field, Item, ShardPlan

ROW_COLUMNS = {name for fields in FIELDS.values() for name, field in fields.items() if field.per == "row"}
COLUMNS_OF_ALL = {"offsets", "ids", "hashes", "crc32"}
BLOCK = 256  # items joined for one write
TRAILER_BYTES = hashlib.sha256().digest_size  # bytes
ItemFields = dict[str, np.ndarray]


@contextmanager
def open_shard(path: Path) -> Iterator[h5py.File]:
    """Open a shard to read; a missing or broken file is an error that says what to do."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} is listed in the manifest but missing; restore it, or delete the store's folder."
        )
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise OSError(
                error.errno, f"{path}: too many files are open; join the shards with `tern store compact`"
            ) from error
        raise ValueError(
            f"{path} is not a readable shard ({error}); restore it, or delete the store's folder."
        ) from error
    with file:
        try:
            yield file
        except Exception as error:  # flipped bits can raise anything inside HDF5, and all of it means: damaged
            if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
                raise
            raise ValueError(f"{path} is damaged ({error}); restore it, or delete the store's folder.") from error


def check_metadata_crc(path: Path, entry: dict[str, Any]) -> None:
    """ValueError if what a shard holds beside its rows is not, byte for byte, what the manifest knows of it.

    Ids, hashes and offsets decide whose rows are read, and HDF5 itself can loop for ever on flipped bits: so they are
    looked at before it opens the file. The rows have checksums of their own, for `verify`.
    """
    if not Path(path).is_file():
        return  # `open_shard` says what is to be done
    if Path(path).stat().st_size != entry["bytes"] or _crc_of_rest(path, entry["row_spans"]) != entry["metadata_crc32"]:
        raise ValueError(f"{path} is not the file that the manifest lists; restore it, or delete the store's folder.")


def _crc_of_rest(path: Path, rows_at: list[list[int]]) -> int:
    """CRC-32 of a file less the spans (first byte, bytes) in which its rows lie."""
    checksum, place = 0, 0
    with open(path, "rb") as file:
        for start, size in [*rows_at, [path.stat().st_size, 0]]:
            file.seek(place)
            left = start - place
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                checksum = zlib.crc32(block, checksum)
                left -= len(block)
            place = start + size
    return checksum


def read_shard_items(path: Path) -> tuple[list[str], list[str]]:
    """Ids and content hashes of a shard's items. Raises ValueError naming a file that cannot be read."""
    with open_shard(path) as file:
        return list(file["ids"].asstr()[:]), [value.decode() for value in file["hashes"][:]]


def read_shard_hashes(path: Path) -> dict[str, str]:
    """Id -> content hash of all that a shard was made from: its items, and those it set aside."""
    with open_shard(path) as file:
        aside = json.loads(file.attrs["invalid_items"])
    return dict(zip(*read_shard_items(path), strict=True)) | {entry["id"]: entry["hash"] for entry in aside}


def read_unlisted_shard_hashes(path: Path) -> dict[str, str]:
    """`shard_answers` of a file that no manifest vouches for: ValueError unless its seal holds.

    HDF5 itself can loop for ever on a flipped bit, so that it is given no such file before.
    """
    if not has_valid_trailer(path):
        raise ValueError(f"{path} is not as it was written; it is not used, and what it held is made again.")
    return read_shard_hashes(path)


def has_valid_trailer(path: Path) -> bool:
    """Whether a file is, byte for byte, what `write_shard` wrote; reads it from end to end."""
    hasher, left = hashlib.sha256(), path.stat().st_size - TRAILER_BYTES
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            hasher.update(block)
            left -= len(block)
        return left == 0 and file.read() == hasher.digest()


def read_shard_entry(path: Path) -> tuple[dict[str, Any], list[str], list[dict[str, str]]]:
    """A finished shard's entry for the manifest, the ids of its items, and the items that were set aside."""
    with open_shard(path) as file:
        ids, rows = list(file["ids"].asstr()[:]), int(file["offsets"][-1])
        aside = json.loads(file.attrs["invalid_items"])
        # Rows that HDF5 has compressed or cut into chunks have no place; they count as the rest then.
        places = [(file[name].id.get_offset(), file[name].id.get_storage_size()) for name in ROW_COLUMNS & set(file)]
    rows_at = sorted([start, size] for start, size in places if start is not None and size)
    size = {"bytes": path.stat().st_size, "sha256": sha256_file(path), "items": len(ids), "rows": rows}
    rest = {"row_spans": rows_at, "metadata_crc32": _crc_of_rest(path, rows_at)}
    return {"file": path.name, **size, **rest}, ids, aside


def write_shard(folder: Path, plan: ShardPlan, rows: Iterable[dict[str, Any] | str]) -> str:
    """Write one shard: `rows` gives, for each planned item, its fields, or the reason why it has none.

    Returns the file name. If the shard is there already and whole, `rows` is not touched. Memory: two shards.
    Raises OSError naming the file if the disk is full; nothing half-written is left.
    """
    path, fields = Path(folder) / plan.file, manifest_fields(read_store_manifest(folder))
    if plan.existing_file or (path.exists() and has_valid_trailer(path) and not find_shard_damage(path, fields)):
        return plan.file
    kept: list[tuple[Item, ItemFields]] = []
    aside: list[dict[str, str]] = []
    for item, row in zip(plan.items, rows, strict=True):
        reason = row if isinstance(row, str) else ""
        values = {} if reason else {name: np.asarray(row[name]) for name in fields}
        if reason := reason or _problem(values, fields):
            aside.append({"id": item.id, "hash": item.hash, "reason": reason})
        else:
            kept.append((item, {name: values[name].astype(fields[name].dtype) for name in fields}))
    # Into memory first: HDF5 told of a full disk in the middle of a file leaves handles behind and crashes at exit.
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v110")) as file:
        _fill(file, kept, fields)
        file.attrs["invalid_items"] = json.dumps(aside)
    try:
        with atomic_write(path) as temporary, open(temporary, "wb") as out:
            out.write(image.getbuffer())
            out.write(hashlib.sha256(image.getbuffer()).digest())
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written: {os.strerror(error.errno or 0)}") from error
    return plan.file


def _problem(values: ItemFields, fields: dict[str, Field]) -> str:
    """Why rows cannot be stored, or an empty text: half precision ends at 65,504, and a store holds no NaN."""
    lengths = {len(values[name]) for name in fields if fields[name].per == "row"}
    if len(lengths) != 1 or 0 in lengths:
        none = "nothing was found in it, and an item needs a row at least"
        return none if lengths == {0} else f"its fields have {sorted(lengths)} rows; one number above 0 is needed"
    with np.errstate(over="ignore", invalid="ignore"):
        stored = {name: values[name].astype(field.dtype) for name, field in fields.items()}
    broken = [name for name, rows in stored.items() if not np.isfinite(rows).all()]
    return f"its {' and '.join(broken)} are not finite as stored" if broken else ""


def _fill(file: h5py.File, kept: list[tuple[Item, ItemFields]], fields: dict[str, Field]) -> None:
    lengths = [len(values["features"]) for _, values in kept]
    file["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype("int64")
    file.create_dataset("ids", data=[item.id for item, _ in kept], dtype=h5py.string_dtype(), shape=(len(kept),))
    file["hashes"] = np.array([item.hash for item, _ in kept], dtype="S64")
    file["crc32"] = np.array([compute_crc32(values, fields) for _, values in kept], dtype="uint32")
    for name, field in fields.items():
        _column(file, name, field, [values.pop(name) for _, values in kept])


def _column(file: h5py.File, name: str, field: Field, parts: list[np.ndarray]) -> None:
    """Write a contiguous dataset by blocks and empty `parts`: joined at once, the rows would need memory again."""
    join = np.concatenate if field.per == "row" else np.stack
    if not parts:
        file.create_dataset(name, data=np.array([], dtype=field.dtype))
        return
    count = sum(map(len, parts)) if field.per == "row" else len(parts)
    tail = parts[0].shape[1:] if field.per == "row" else parts[0].shape
    dataset, start = file.create_dataset(name, (count, *tail), field.dtype), 0
    while parts:
        block = join(parts[:BLOCK])
        del parts[:BLOCK]
        dataset[start : start + len(block)] = block
        start += len(block)


def compute_crc32(values: ItemFields, fields: dict[str, Field]) -> int:
    """The checksum of an item's rows, field by field."""
    checksum = 0
    for name in fields:
        checksum = zlib.crc32(np.ascontiguousarray(values[name]).tobytes(), checksum)
    return checksum


@dataclass(frozen=True)
class Problem:
    """What is wrong with a shard: with all of it, or with the rows of one item."""

    path: Path
    message: str
    item: str = ""  # id; empty: the whole file

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def find_shard_damage(path: Path, fields: dict[str, Field]) -> list[Problem]:
    """What is wrong with a shard, item by item: an empty list if it has these fields and every row its checksum."""
    try:
        with open_shard(path) as file:
            columns = set(file) - COLUMNS_OF_ALL
            if columns != set(fields) or file["features"].dtype != fields["features"].dtype:
                raise ValueError("its fields are not those of the store")
            ids, offsets, expected = file["ids"].asstr()[:], file["offsets"][:], file["crc32"][:]
            found = {name: file[name][:] for name in fields}
            json.loads(file.attrs["invalid_items"])
            return [
                Problem(path, f"the rows of {name} do not have the checksum they were written with", name)
                for i, name in enumerate(ids)
                if compute_crc32(_rows_of(i, found, offsets, fields), fields) != expected[i]
            ]
    except Exception as error:  # flipped bits can raise anything inside HDF5, and all of it means: damaged
        return [Problem(path, f"unreadable: {error}")]


def _rows_of(i: int, columns: ItemFields, offsets: np.ndarray, fields: dict[str, Field]) -> ItemFields:
    rows = slice(offsets[i], offsets[i + 1])
    return {name: columns[name][rows] if field.per == "row" else columns[name][i] for name, field in fields.items()}
