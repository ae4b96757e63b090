"""Reads give the same rows in every way: merged, padded or flat, in threads or not, from third-party files."""

import multiprocessing
import os
import pickle
import shutil
import threading
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.manifest.manifest import open_or_create_store, read_store_manifest, write_store_manifest
from data.manifest.schema import Item
from data.store import reader
from data.store.loader import iter_batches
from data.store.shard_file import read_shard_entry
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit, plan_shards

NAMES = [f"photo {i}.jpg" for i in range(37)]


@lru_cache
def content(name: str) -> dict[str, np.ndarray]:
    """Rows of an item, drawn from its name: an oracle that needs no file."""
    rng = np.random.default_rng(list(name.encode()))
    n = int(rng.integers(1, 6))
    found = {"features": rng.normal(size=(n, 8)).astype("f2"), "boxes": rng.random((n, 4)).astype("f4")}
    found |= {key: rng.integers(0, 9, n).astype("i4") for key in ("class_ids", "attr_ids")}
    found |= {key: rng.random(n).astype("f4") for key in ("scores", "attr_scores")}
    return found | {"size": rng.integers(1, 99, 2).astype("i4")}


def fill(root: Path) -> Path:
    folder = open_or_create_store(root, "regions", {})
    plans = plan_shards(folder, [Item(name, "0" * 64) for name in NAMES], 10)
    commit(folder, [write_shard(folder, plan, [content(item.id) for item in plan.items]) for plan in plans])
    return folder


def slow(field: str, names: list[str]) -> list[np.ndarray]:
    return [content(name)[field] for name in names]


def check(store: Store, field: str, names: list[str]) -> None:
    expected = slow(field, names)
    if store.fields[field].per == "item":
        np.testing.assert_array_equal(store.read(field, names), np.stack(expected))
        return
    np.testing.assert_array_equal(store.read(field, names), np.concatenate(expected))
    padded, lengths = store.read_padded(field, names)
    assert lengths.tolist() == [len(rows) for rows in expected]
    assert padded.shape[1] == max(lengths)
    for rows, found in zip(expected, padded, strict=True):
        np.testing.assert_array_equal(found[: len(rows)], rows)
        assert not found[len(rows) :].any()


def make_foreign(folder: Path) -> None:
    """Rewrite the shards as another program could: compressed, in other dtypes, after a user block."""
    manifest = read_store_manifest(folder)
    ways = [{"chunks": True, "compression": "gzip"}, {"chunks": True, "shuffle": True}, {}, {}]
    shards = []
    for number, (entry, way) in enumerate(zip(manifest.shards, ways, strict=True)):
        path, block = folder / entry.file, 512 if number == 3 else 0
        with h5py.File(path) as old, h5py.File(folder / "new.h5", "w", userblock_size=block) as new:
            for name in old:
                dtype = ">f4" if number == 2 and name == "boxes" else old[name].dtype
                raw = name == "ids" or not way
                new.create_dataset(name, data=old[name][:], dtype=dtype, **({} if raw else way))
            new.attrs["invalid_items"] = old.attrs["invalid_items"]
        os.replace(folder / "new.h5", path)
        shards.append(read_shard_entry(path)[0])
    write_store_manifest(folder, manifest.model_copy(update={"shards": tuple(shards)}))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    own = fill(root / "own")
    foreign = root / "foreign"
    shutil.copytree(own, foreign)
    make_foreign(foreign)
    return {"own": Store(own), "foreign": Store(foreign)}


@pytest.mark.parametrize("kind", ["own", "foreign"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_read_equals_a_slow_loop_for_any_ids(stores, kind, data):
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=60))
    check(stores[kind], data.draw(st.sampled_from(list(stores[kind].fields))), names)


@pytest.mark.parametrize("limit", [1, 2, 1024])
@pytest.mark.parametrize("most", [7, 1000, 1 << 30])
@pytest.mark.parametrize("cached", [True, False])
def test_read_is_the_same_with_short_reads_few_buffers_and_a_cold_cache(stores, monkeypatch, limit, most, cached):
    real = os.preadv

    def stingy(fd, buffers, offset, flags=0):
        if flags and not cached:
            raise BlockingIOError
        first = buffers[0][:most]
        return real(fd, [first, *buffers[1:]] if len(first) == len(buffers[0]) else [first], offset)

    monkeypatch.setattr(reader.os, "preadv", stingy)
    monkeypatch.setattr(reader, "MAX_BUFFERS", limit)
    for field in stores["own"].fields:
        check(stores["own"], field, NAMES)
        check(stores["own"], field, NAMES[::-1])


def test_adjacent_items_are_read_together(stores, monkeypatch):
    calls, real = [], os.preadv
    monkeypatch.setattr(reader.os, "preadv", lambda *args: calls.append(len(args[1])) or real(*args))
    stores["own"].read("features", NAMES)
    assert calls == [1, 1, 1, 1], "four shards of neighbors in file and batch"
    calls.clear()
    stores["own"].read("features", NAMES[::-1])
    assert calls == [10, 10, 10, 7], "neighbors in the file alone: one call, several buffers"


def test_read_padded_fills_the_array_of_the_caller_or_raises(stores):
    store, names = stores["own"], NAMES[3:9]
    longest = max(len(rows) for rows in slow("features", names))
    out = np.full((6, longest + 2, 8), 7, "f2")
    assert store.read_padded("features", names, out)[0] is out
    np.testing.assert_array_equal(out[:, :longest], store.read_padded("features", names)[0])
    assert not out[:, longest:].any()
    assert store.read_padded("features", [])[0].shape == (0, 0, 8)
    bad = {
        "dtype": np.empty((6, longest, 8), "f4"), "short": np.empty((6, longest - 1, 8), "f2"),
        "count": np.empty((5, longest, 8), "f2"), "width": np.empty((6, longest, 9), "f2"),
        "strided": np.empty((6, longest, 16), "f2")[..., ::2],
    }  # fmt: skip
    for array in bad.values():
        with pytest.raises(ValueError, match="must be a contiguous"):
            store.read_padded("features", names, array)
    with pytest.raises(ValueError, match="one value per item"):
        store.read_padded("size", names)


def test_truncated_file_raises_with_file_and_item(tmp_path):
    folder = fill(tmp_path)
    store = Store(folder)
    victim = folder / store.manifest.shards[1].file
    with h5py.File(victim) as file:
        offset = file["features"].id.get_offset()
    row = int(store.lengths(NAMES[10:14]).sum()) * 16
    os.truncate(victim, offset + row + 3)  # inside the first row of the fifth item
    np.testing.assert_array_equal(store.read("features", NAMES[10:14]), np.concatenate(slow("features", NAMES[10:14])))
    with pytest.raises(ValueError, match=rf"{victim.name} ends inside the features of photo 14\.jpg"):
        store.read("features", NAMES)


def test_store_holds_one_descriptor_per_shard_until_it_is_closed(tmp_path):
    folder = fill(tmp_path)
    count = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731
    before = count()
    with Store(folder) as store:
        twin = pickle.loads(pickle.dumps(store))
        check(twin, "features", NAMES)
        assert count() == before + 8
    assert count() == before + 4
    with pytest.raises(ValueError, match="was closed"):
        store.read("features", NAMES)
    check(pickle.loads(pickle.dumps(store)), "features", NAMES)
    del twin
    assert count() == before


def _check_all(store: Store) -> int:
    for _ in range(3):
        for field in store.fields:
            check(store, field, NAMES[::-1])
    return 1


@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_forked_readers_share_descriptors_without_mixing_rows(stores, kind):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert sum(pool.map(_check_all, [stores[kind]] * 1)) == 1
    with multiprocessing.get_context("fork").Pool(4, initializer=_keep, initargs=(stores[kind],)) as pool:
        assert sum(pool.map(_check_kept, range(8))) == 8


KEPT: list[Store] = []


def _keep(store: Store) -> None:
    KEPT[:] = [store]  # inherited as it is open in the parent, not pickled


def _check_kept(_: int) -> int:
    return _check_all(KEPT[0])


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_iter_batches_gives_complete_batches_in_order(stores, kind, workers):
    store, rng = stores[kind], np.random.default_rng(0)
    lists = [list(rng.choice(NAMES, 9)) for _ in range(30)]
    found = list(iter_batches(store, ["features", "size", "boxes"], iter(lists), num_threads=workers, prefetch=3))
    assert [list(batch.ids) for batch in found] == lists
    for batch in found:
        for field in ("features", "boxes"):
            np.testing.assert_array_equal(batch.values[field], store.read_padded(field, batch.ids)[0])
        np.testing.assert_array_equal(batch.values["size"], np.stack(slow("size", batch.ids)))
        assert batch.lengths.tolist() == [len(rows) for rows in slow("boxes", batch.ids)]


def test_iter_batches_raises_at_the_failed_batch_and_stops_its_threads(stores):
    before, requested = threading.active_count(), []

    def lists():
        for number in range(1000):
            requested.append(number)
            yield ["nobody.jpg"] if number == 5 else NAMES[:3]

    reading = iter_batches(stores["own"], ["features"], lists(), prefetch=4)
    for _ in range(5):
        assert next(reading).lengths.sum() == sum(len(rows) for rows in slow("boxes", NAMES[:3]))
    assert len(requested) <= 9, "at most `prefetch` batches are read ahead"
    with pytest.raises(ValueError, match=r"'nobody\.jpg' is not in the store"):
        next(reading)
    assert threading.active_count() == before
    reading = iter_batches(stores["own"], ["features"], [NAMES] * 1000)
    next(reading)
    reading.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="both must be at least 1"):
        next(iter_batches(stores["own"], ["features"], [], num_threads=0))
