"""Compare the rows of a new version with those in the shards of a collection; no vector is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.building.shard import read_metadata
from index.ivf.deleted_keys import read_deleted_keys
from index.ivf.vectors import is_in_sorted
from index.metadata.arrow_schema import SCHEMA
from index.metadata.schema import CONTENT_COLUMNS, Row
from index.metadata.tables import CONVERSION_ERRORS, build_table, iter_blocks
from index.versions.manifest import CollectionManifest


@dataclass(frozen=True)
class Changes:
    """Changes of one collection."""

    new: pa.Table
    """rows that no shard has yet"""
    deleted_keys: np.ndarray
    """(m,) int64, sorted: all keys that are deleted after the update"""
    num_live_rows: int
    """number of rows that are returned after the update"""
    relabeled: Mapping[int, str | None] = field(default_factory=dict)
    """by key, the new `Row.columns` of rows that the shards have with others"""


def find_changes(root: Path, kind: str, manifest: CollectionManifest, rows: Sequence[Row]) -> Changes:
    """Compare the rows in the shards of a collection with `rows`; no vector is read.

    Args:
        root: Folder of the index.
        kind: Kind of the collection.
        manifest: Manifest of the collection with the stored rows.
        rows: All rows of the new version.

    Raises:
        ValueError: A row is not valid, or two rows have the same 64-bit key.
    """
    deleted_keys, stored = read_deleted_keys(root, manifest.deleted), read_metadata(root, kind, manifest)
    is_deleted = is_in_sorted(stored["key"].to_numpy(), deleted_keys)
    live = stored.filter(pa.array(~is_deleted)).combine_chunks()  # `take` is slow on many chunks
    blocks, relabeled = list[tuple[list[Row], np.ndarray]](), dict[int, str | None]()
    for block in iter_blocks(rows):
        new_rows, known_rows, positions = _split_known_rows(block, live)
        blocks.append((new_rows, positions))
        relabeled.update(_find_relabeled(known_rows, live, positions))
    new = build_table(kind, (row for new_rows, _ in blocks for row in new_rows))
    new_keys = new["key"].to_numpy()
    live_keys = live["key"].to_numpy()
    is_kept = np.zeros(len(live_keys), bool)
    for _, positions in blocks:
        is_kept[positions] = True
    kept_keys = live_keys[is_kept]
    if len(shared := kept_keys[is_in_sorted(kept_keys, new_keys)]):
        name = new["id"][int(np.searchsorted(new_keys, shared[0]))].as_py()
        raise ValueError(f"{kind} {name!r} shares the 64-bit key of another row. Rename it.")
    is_restored = is_in_sorted(new_keys, deleted_keys)
    if is_restored.any():
        relabeled.update(
            _find_relabeled_restored(new.filter(pa.array(is_restored)), stored.filter(pa.array(is_deleted)))
        )
    still_deleted = np.setdiff1d(np.union1d(deleted_keys, live_keys[~is_kept]), new_keys)
    return Changes(new.filter(pa.array(~is_restored)), still_deleted, len(rows), relabeled)


def _find_relabeled(rows: Sequence[Row], live: pa.Table, positions: np.ndarray) -> Iterator[tuple[int, str | None]]:
    """Yield the key and the columns of each row whose columns differ from those of its live row."""
    if live["columns"].null_count == len(live) and all(row.columns is None for row in rows):
        return
    columns, keys = (live[name].take(positions).to_pylist() for name in ("columns", "key"))
    for row, key, stored in zip(rows, keys, columns, strict=True):
        if row.columns != stored:
            yield key, row.columns


def _find_relabeled_restored(new: pa.Table, deleted: pa.Table) -> Iterator[tuple[int, str | None]]:
    """Yield the key and the columns of each row that returns to life with others than its deleted row has."""
    stored = dict(zip(deleted["key"].to_pylist(), deleted["columns"].to_pylist(), strict=True))
    for key, columns in zip(new["key"].to_pylist(), new["columns"].to_pylist(), strict=True):
        if stored[key] != columns:
            yield key, columns


def _split_known_rows(rows: list[Row], live: pa.Table) -> tuple[list[Row], list[Row], np.ndarray]:
    """Split rows into those without an equal live row, and the others with the positions of their equals in `live`."""
    ids = pa.array([row.id for row in rows], pa.string())
    positions = pc.index_in(ids, live["id"]).fill_null(-1).to_numpy()
    known = np.flatnonzero(positions >= 0)
    is_equal = np.zeros(len(rows), bool)
    known_rows = rows if len(known) == len(rows) else [rows[i] for i in known]
    is_equal[known] = _equal_rows(known_rows, live, positions[known])
    new, equal = ([rows[i] for i in np.flatnonzero(mask)] for mask in (~is_equal, is_equal))
    return new, equal, positions[is_equal]


def _equal_rows(rows: Sequence[Row], live: pa.Table, positions: np.ndarray) -> np.ndarray:
    """Return (n,) bool: whether each row equals the live row at its position."""
    equal = np.full(len(rows), True)
    for name, values in zip(CONTENT_COLUMNS, zip(*rows, strict=True), strict=False):
        if live[name].null_count == len(live) and all(value is None for value in values):
            continue
        try:
            column = pa.array(values, SCHEMA.field(name).type)
        except CONVERSION_ERRORS:
            return np.zeros(len(rows), bool)  # `build_table` raises the error with a message
        live_column = live[name].take(positions)
        agree = pc.equal(column, live_column)
        if column.null_count or live_column.null_count:
            agree = pc.or_(pc.fill_null(agree, False), pc.and_(pc.is_null(column), pc.is_null(live_column)))
        equal &= agree.to_numpy(zero_copy_only=False)
    return equal


def has_changes(root: Path, manifest: CollectionManifest, change: Changes) -> bool:
    """Return whether an update of a collection would write anything."""
    return bool(change.new.num_rows or change.relabeled) or not np.array_equal(
        change.deleted_keys, read_deleted_keys(root, manifest.deleted)
    )
