"""Read items and compare their rows with the checksum that they were written with: before a copy of them is made."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.store.columns import Columns, compute_crc32
from data.store.shard_file import RESTORE_HINT
from data.store.store import Store


def read_intact_vectors(store: Store, ids: Sequence[str]) -> np.ndarray:
    """Read the vectors of items of a vector store, (n, e), in the order of `ids`.

    Raises:
        ValueError: A vector is damaged; the message has file and item.
    """
    vectors = store.read("features", ids)
    for name, vector, checksum in zip(ids, vectors, store.checksums(ids), strict=True):
        if zlib.crc32(vector.tobytes()) != checksum:
            raise ValueError(describe_damage(store.shard_path(name), name))
    return vectors


def iter_intact_columns(store: Store, ids: Sequence[str]) -> Iterator[Columns]:
    """Read all columns of items, one item at a time, in the order of `ids`.

    A copy gets a checksum of its own, so a copy of damaged rows would hide the damage forever.

    Raises:
        ValueError: The rows of an item are damaged; the message has file and item.
    """
    for name, checksum in zip(ids, store.checksums(ids), strict=True):
        columns = {field: store.read(field, [name]) for field in store.fields}
        columns |= {field: columns[field][0] for field, definition in store.fields.items() if definition.per == "item"}
        if compute_crc32(columns, store.fields) != checksum:
            raise ValueError(describe_damage(store.shard_path(name), name))
        yield columns


def describe_damage(path: Path, name: str) -> str:
    """Describe that the rows of an item of a shard are damaged, and what to do."""
    return (
        f"{path}: the rows of {name} do not have the checksum they were written with. "
        f"Nothing was changed. {RESTORE_HINT}"
    )
