"""Small token stores for the tests of crashes and compaction: filled, interrupted, checked and damaged."""

import multiprocessing
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.manifest.manifest import open_or_create_store
from data.manifest.schema import Item
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import store_update


def spoil(path: Path, row: int) -> str:
    """Flip bits of a row's first feature without HDF5, which would remove the trailer; return the item."""
    with h5py.File(path) as file:
        place = file["features"].id.get_offset() + row * file["features"][0].nbytes
        name = file["ids"].asstr()[np.searchsorted(file["offsets"][:], row, side="right") - 1]
    with open(path, "r+b") as file:
        file.seek(place)
        value = file.read(1)[0]
        file.seek(place)
        file.write(bytes([value ^ 255]))
    return name


FORK = multiprocessing.get_context("fork")
SHARD = 4


def content(item: Item) -> dict[str, np.ndarray]:
    """Compute the rows of an item from its id and hash, independently of any file."""
    rng = np.random.default_rng(list(f"{item.id} {item.hash}".encode()))
    n = int(rng.integers(1, 5))
    return {
        "features": rng.normal(size=(n, 6)).astype("f2"),
        "token_ids": rng.integers(0, 99, n).astype("i4"),
        "full_length": np.array(n + 1, "i4"),
    }


def items(count: int, version: str = "0", name: str = "caption") -> list[Item]:
    return [Item(f"{name} {i}", version * 64) for i in range(count)]


def open_store(root: Path) -> Path:
    return open_or_create_store(root, "tokens", {"model": "test"})


def extract(root: Path, targets: list[Item], log: Path | None = None, pause: float = 0.0, stop_after=None) -> Path:
    """Run a small extraction; `log` receives the id of each extracted item, `stop_after` is the shard of a crash."""
    folder = open_store(root)

    def rows(plan):
        for item in plan.items:
            if log:
                with open(log, "a") as file:
                    file.write(f"{item.id} {item.hash[0]}\n")
            time.sleep(pause)
            yield content(item)

    with store_update(folder, targets, SHARD) as plans:
        for number, plan in enumerate(plans):
            if number == stop_after:
                raise KeyboardInterrupt
            write_shard(folder, plan, rows(plan))
    return folder


def crash(root: Path, targets: list[Item], stop_after: int, log: Path | None = None) -> Path:
    with pytest.raises(KeyboardInterrupt):
        extract(root, targets, log, stop_after=stop_after)
    return open_store(root)


def check(folder: Path, targets: list[Item]) -> None:
    """Check that a store lists exactly these items, with the rows of `content`, and that every byte verifies."""
    with Store(folder) as store:
        assert sorted(store.ids) == sorted(item.id for item in targets)
        assert len(store) == len(targets)
        names = [item.id for item in targets]
        assert store.content_hashes(names) == [item.hash for item in targets]
        for field in store.fields:
            parts = [content(item)[field] for item in targets]
            expected = np.stack(parts) if field == "full_length" else np.concatenate(parts)
            np.testing.assert_array_equal(store.read(field, names), expected)
        assert store.verify() == []
