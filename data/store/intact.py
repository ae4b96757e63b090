"""Copy rows: they are compared with the checksum that they were written with, before a copy of them is made.

A copy gets a checksum of its own, so a copy of damaged rows would hide the damage forever.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import numpy as np

from data.alignment import RowVectors
from data.manifest.manifest import ShardEntry, read_store_manifest
from data.manifest.schema import Field, RowSource
from data.store.columns import Columns, compute_crc32
from data.store.shard_file import RESTORE_HINT, check_metadata_crc, has_valid_trailer, open_shard, read_invalid_items
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import ShardJob


def read_intact_vectors(store: Store, ids: Sequence[str]) -> np.ndarray:
    """Read the vectors of items of a vector store, (n, e), in the order of `ids`.

    Raises:
        ValueError: A vector is damaged; the message has file and item.
    """
    vectors = store.read("features", ids)
    for name, vector, checksum in zip(ids, vectors, store.checksums(ids), strict=True):
        if zlib.crc32(vector.tobytes()) != checksum:
            raise ValueError(_describe_damage(store.shard_path(name), name))
    return vectors


def read_intact_row_vectors(store: Store, ids: Sequence[str]) -> RowVectors:
    """Read the row vectors of items of a store of the kind "row_vectors", in the order of `ids`.

    Raises:
        ValueError: The rows of an item are damaged; the message has file and item.
    """
    rows = RowVectors(store.read("features", ids), store.read("weights", ids), store.lengths(ids))
    starts = rows.starts.tolist()
    checksums = store.checksums(ids).tolist()
    for name, start, length, checksum in zip(ids, starts, rows.lengths.tolist(), checksums, strict=True):
        part = slice(start, start + length)
        if zlib.crc32(rows.weights[part].tobytes(), zlib.crc32(rows.codes[part].tobytes())) != checksum:
            raise ValueError(_describe_damage(store.shard_path(name), name))
    return rows


def iter_intact_columns(store: Store, ids: Sequence[str]) -> Iterator[Columns]:
    """Read all columns of items, one item at a time, in the order of `ids`.

    Raises:
        ValueError: The rows of an item are damaged; the message has file and item.
    """
    for name, checksum in zip(ids, store.checksums(ids), strict=True):
        columns = {field: store.read(field, [name]) for field in store.fields}
        columns |= {field: columns[field][0] for field, definition in store.fields.items() if definition.per == "item"}
        if compute_crc32(columns, store.fields) != checksum:
            raise ValueError(_describe_damage(store.shard_path(name), name))
        yield columns


@dataclass(frozen=True)
class CopyJob(ShardJob):
    """One shard to write whose plan has `sources`; the shards of these exist."""

    is_io_bound: ClassVar[bool] = True
    """Threads are as fast as processes, which would have to start."""


def copy_shard(job: CopyJob) -> str:
    """Write one shard from the rows of others. Returns its file name.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: A shard or the rows of an item are damaged; the message has file and item.
    """
    return write_shard(job.folder, job.plan, _iter_rows(job.folder, job.plan.sources))


def _iter_rows(folder: Path, sources: Sequence[RowSource]) -> Iterator[Columns | str]:
    """Yield the columns of each source, or the reason why it has none."""
    manifest = read_store_manifest(folder)
    entries, fields, checked = {entry.file: entry for entry in manifest.shards}, manifest.fields(), set()
    for file, group in groupby(sources, key=lambda source: source.file):
        if file not in checked:
            _check_file(folder / file, entries.get(file))
            checked.add(file)
        yield from _iter_shard_rows(folder / file, [source.id for source in group], fields)


def _check_file(path: Path, entry: ShardEntry | None) -> None:
    """Check a shard before HDF5 opens it: a listed one by its entry, one of this update by its trailer."""
    if entry is not None:
        check_metadata_crc(path, entry)
    elif not has_valid_trailer(path):
        raise ValueError(f"{path} is damaged: its trailer is not the SHA-256 of its content. Run the stage again.")


def _iter_shard_rows(path: Path, ids: Sequence[str], fields: Mapping[str, Field]) -> Iterator[Columns | str]:
    reasons = {item.id: item.reason for item in read_invalid_items(path)}
    with open_shard(path) as file:
        numbers = {name: number for number, name in enumerate(file["ids"].asstr()[:])}
        offsets, checksums = file["offsets"][:], file["crc32"][:]
        for name in ids:
            if name not in numbers:
                yield f"its content is that of {name}: {reasons[name]}"
                continue
            number = numbers[name]
            rows = slice(offsets[number], offsets[number + 1])
            columns = {field: file[field][rows if fields[field].per == "row" else number] for field in fields}
            if compute_crc32(columns, fields) != checksums[number]:
                raise ValueError(_describe_damage(path, name))
            yield columns


def _describe_damage(path: Path, name: str) -> str:
    return (
        f"{path}: the rows of {name} do not have the checksum they were written with. "
        f"Nothing was changed. {RESTORE_HINT}"
    )
