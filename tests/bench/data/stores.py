"""Read random batches of features, cached and uncached: one .npy per image, chunked HDF5, a memory map, a store.

Batches per second are wall-clock rates, and two workers need two idle cores; CPU milliseconds count all processes.
"""

import os
import resource
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from data.manifest.manifest import open_or_create_store
from data.manifest.schema import Item
from data.store.loader import iter_batches
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit, plan_shards

IMAGES, REGIONS, WIDTH, BATCH = 2000, 36, 2048, 128
NAMES = [f"image {i}.jpg" for i in range(IMAGES)]
Batches = Iterable[object]


def stores(folder: Path) -> None:
    """Batches of 128 of 2,000 images, 36 x 2,048 float16, 34 % zeros as in bottom-up features."""
    _write(folder)
    order = np.random.default_rng(1).permutation(IMAGES)[: IMAGES // BATCH * BATCH].reshape(-1, BATCH)
    lists = [[NAMES[i] for i in batch] for batch in order]
    store = Store(next(folder.glob("regions-*")))
    maps = _Maps(store)
    methods: dict[str, Callable[[], Batches]] = {
        "one .npy per image": lambda: (_stack_npy(folder, ids) for ids in lists),
        "h5, one chunk per image, read_direct": lambda: _chunked(folder, order),
        "memory map of the shards": lambda: (maps.stack(ids) for ids in lists),
        "the store, read": lambda: (store.read("features", ids) for ids in lists),
        "the store, batches, 2 threads": lambda: iter_batches(store, ["features"], lists),
        "DataLoader, 2 workers, .npy": lambda: DataLoader(
            _Batches(partial(_stack_npy, folder), lists), batch_size=None, num_workers=2
        ),
        "DataLoader, 2 workers, the store": lambda: DataLoader(
            _Batches(partial(_read_padded, store), lists), batch_size=None, num_workers=2
        ),
    }

    def drop_caches() -> None:
        maps.close()  # the page cache keeps mapped pages
        _drop_page_cache(folder)

    columns = ("warm, as written", "CPU ms", "cold", "CPU ms", "warm, after cold", "CPU ms")
    table = Table("batches per second", *columns, title=stores.__doc__)
    warm, cold = _rounds(methods, len(lists), 5), _rounds(methods, len(lists), 3, drop_caches)
    warm_after_cold = _rounds(methods, len(lists), 4)
    drop_caches()
    store.preload()
    preloaded = {"the store, read, preloaded": methods["the store, read"]}
    warm_after_cold |= _rounds(preloaded, len(lists), 4)
    for name in [*methods, *preloaded]:
        usages = [
            _medians(results[name][1:]) if name in results else ("", "") for results in (warm, cold, warm_after_cold)
        ]
        table.add_row(name, *(f"{value:,.1f}" if value else "" for part in usages for value in part))
    Console(width=120).print(table)


def _rounds(
    methods: dict[str, Callable[[], Batches]], count: int, rounds: int, prepare: Callable[[], None] = lambda: None
) -> dict[str, list[tuple[float, float]]]:
    """Measure all methods in turn, round by round, so that other work on the machine affects all of them."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            results[name].append(_measure(method, count, prepare))
    return results


def _write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    flat = np.zeros(REGIONS)
    other_columns = {
        "boxes": np.ones((REGIONS, 4)),
        "class_ids": flat,
        "scores": flat,
        "attr_ids": flat,
        "attr_scores": flat,
    }
    (folder / "npy").mkdir()
    target = open_or_create_store(folder, "regions", {"bench": 1})
    with h5py.File(folder / "chunked.h5", "w") as file:
        shape = (REGIONS, WIDTH)
        dataset = file.create_dataset("features", (IMAGES, *shape), "float16", chunks=(1, *shape))

        def rows(number: int) -> dict:
            features = np.maximum(rng.normal(0.41, 1, shape), 0).astype("float16")
            np.save(folder / "npy" / f"{NAMES[number]}.npy", features)
            dataset[number] = features
            return {"features": features, **other_columns, "size": np.array([640, 480])}

        number_of = {name: number for number, name in enumerate(NAMES)}
        plans = plan_shards(target, [Item(name, "0" * 64) for name in NAMES], 250)
        commit(target, [write_shard(target, plan, (rows(number_of[item.id]) for item in plan.items)) for plan in plans])
    os.sync()


def _drop_page_cache(folder: Path) -> None:
    """Drop every file from the page cache of the operating system."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def _measure(method: Callable[[], Batches], count: int, prepare: Callable[[], None]) -> tuple[float, float]:
    """Measure batches per second and CPU ms per batch of an epoch, including start and end of the workers."""
    prepare()
    cpu, start = _cpu(), time.perf_counter()
    for batch in method():
        del batch
    return count / (time.perf_counter() - start), 1000 * (_cpu() - cpu) / count


def _cpu() -> float:
    """Return the CPU seconds of this process and of its finished children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usages)


def _medians(results: list[tuple[float, float]]) -> tuple[float, float]:
    return float(np.median([rate for rate, _ in results])), float(np.median([cpu for _, cpu in results]))


def _stack_npy(folder: Path, ids: list[str]) -> np.ndarray:
    return np.stack([np.load(folder / "npy" / f"{name}.npy") for name in ids])


def _chunked(folder: Path, order: np.ndarray) -> Batches:
    with h5py.File(folder / "chunked.h5") as file:
        for batch in order:
            batch_rows = np.empty((len(batch), REGIONS, WIDTH), "float16")
            for row, number in enumerate(batch):
                file["features"].read_direct(batch_rows, np.s_[number], np.s_[row])
            yield batch_rows


class _Maps:
    """Rows of each image as a view of a mapped shard; shards are mapped at the first use."""

    def __init__(self, store: Store):
        self._store = store
        self.close()

    def close(self) -> None:
        self._rows: dict[str, np.ndarray] = {}

    def _open(self) -> None:
        for entry in self._store.manifest.shards:
            path = self._store.folder / entry.file
            with h5py.File(path) as file:
                offset, ids = file["features"].id.get_offset(), file["ids"].asstr()[:]
            rows = np.asarray(np.memmap(path, "float16", "r", offset, (len(ids), REGIONS, WIDTH)))
            self._rows |= {name: rows[number] for number, name in enumerate(ids)}

    def stack(self, ids: list[str]) -> np.ndarray:
        if not self._rows:
            self._open()
        batch_rows = np.empty((len(ids), REGIONS, WIDTH), "float16")
        for row, name in enumerate(ids):
            batch_rows[row] = self._rows[name]
        return batch_rows


class _Batches(Dataset):
    """Dataset of batches: item i is what `read` returns for the ids of `lists[i]`."""

    def __init__(self, read: Callable[[list[str]], np.ndarray], lists: list[list[str]]):
        self.read, self.lists = read, lists

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.read(self.lists[index])


def _read_padded(store: Store, ids: list[str]) -> np.ndarray:
    return store.read_padded("features", ids)[0]
