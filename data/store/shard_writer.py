"""Write one shard: the rows of planned items into an HDF5 file with a trailer, atomically."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.io.files import atomic_write
from data.manifest.manifest import InvalidItem, read_store_manifest
from data.manifest.schema import Field, Item, ShardPlan
from data.store.columns import compute_crc32, find_storage_problem
from data.store.shard_file import find_shard_damage, has_valid_trailer

ITEMS_PER_BLOCK = 256  # items whose rows are concatenated for one write


def write_shard(folder: Path, plan: ShardPlan, rows: Iterable[Mapping[str, Any] | str]) -> str:
    """Write one shard, unless a finished one with these items exists; needs memory for two shards.

    Args:
        folder: Folder of the store.
        plan: Items of the shard.
        rows: For each item of the plan, its columns, or the reason why it has none; not iterated over if the
            shard is already finished.

    Returns:
        The file name of the shard.

    Raises:
        OSError: The file cannot be written, for instance because the disk is full; no partial file remains.
    """
    path, fields = Path(folder) / plan.file, read_store_manifest(folder).fields()
    if plan.existing_file or (path.exists() and has_valid_trailer(path) and not find_shard_damage(path, fields)):
        return plan.file
    valid: list[tuple[Item, dict[str, np.ndarray]]] = []
    invalid: list[InvalidItem] = []
    for item, row in zip(plan.items, rows, strict=True):
        columns = {} if isinstance(row, str) else {name: np.asarray(row[name]) for name in fields}
        if reason := row if isinstance(row, str) else find_storage_problem(columns, fields):
            invalid.append(InvalidItem(id=item.id, hash=item.hash, reason=reason))
        else:
            valid.append((item, {name: columns[name].astype(fields[name].dtype) for name in fields}))
    # In memory first: if the disk is full in the middle of a file, HDF5 leaves handles open and crashes at exit.
    content = io.BytesIO()
    with h5py.File(content, "w", libver=("earliest", "v110")) as file:
        _write_columns(file, valid, fields)
        file.attrs["invalid_items"] = json.dumps([item.model_dump() for item in invalid])
    with atomic_write(path) as temporary, open(temporary, "wb") as out:
        out.write(content.getbuffer())
        out.write(hashlib.sha256(content.getbuffer()).digest())
    return plan.file


def _write_columns(
    file: h5py.File, items: list[tuple[Item, dict[str, np.ndarray]]], fields: Mapping[str, Field]
) -> None:
    lengths = [len(columns["features"]) for _, columns in items]
    file["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype("int64")
    file.create_dataset("ids", data=[item.id for item, _ in items], dtype=h5py.string_dtype(), shape=(len(items),))
    file["hashes"] = np.array([item.hash for item, _ in items], dtype="S64")
    file["crc32"] = np.array([compute_crc32(columns, fields) for _, columns in items], dtype="uint32")
    for name, field in fields.items():
        _write_column(file, name, field, [columns.pop(name) for _, columns in items])


def _write_column(file: h5py.File, name: str, field: Field, arrays: list[np.ndarray]) -> None:
    """Write a contiguous dataset block by block and empty `arrays`.

    One concatenation would need the memory twice.
    """
    if not arrays:
        file.create_dataset(name, data=np.array([], dtype=field.dtype))
        return
    count = sum(map(len, arrays)) if field.per == "row" else len(arrays)
    shape = arrays[0].shape[1:] if field.per == "row" else arrays[0].shape
    join = np.concatenate if field.per == "row" else np.stack
    dataset, start = file.create_dataset(name, (count, *shape), field.dtype), 0
    while arrays:
        block = join(arrays[:ITEMS_PER_BLOCK])
        del arrays[:ITEMS_PER_BLOCK]
        dataset[start : start + len(block)] = block
        start += len(block)
