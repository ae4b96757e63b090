"""Store: rows are read by id in any order, generation and process, and after crashes."""

import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.io.digests import digest, sha256_file
from data.io.files import atomic_write
from data.manifest.manifest import open_or_create_store, read_store_manifest
from data.manifest.schema import Item, ShardPlan
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.verify import verify_store
from data.store.writing import commit, plan_shards
from tests.helpers.repeats import WRITER_KILLS
from tests.helpers.stores import spoil

ROWS = {f"photo {i}.jpg": 1 + i % 4 for i in range(23)}


def content(name: str, version: int = 0) -> dict[str, np.ndarray]:
    """Compute the rows of an item from its name, independently of any file."""
    rng = np.random.default_rng(sum(map(ord, name)) + 1000 * version)
    n = ROWS[name]
    boxes = rng.random((n, 4)).astype("float32")
    ids = rng.integers(0, 9, n).astype("int32")
    features = rng.normal(size=(n, 6)).astype("float16")
    size = np.array([n, 7], "int32")
    found = {"features": features, "boxes": boxes, "class_ids": ids, "scores": boxes[:, 0]}
    return {**found, "attr_ids": ids + 1, "attr_scores": boxes[:, 1], "size": size}


def items(version: int = 0) -> list[Item]:
    return [Item(name, f"{version}" * 64) for name in ROWS]


def fill(root: Path, targets: list[Item], version: int = 0, stop_after: int | None = None, shard: int = 4) -> Path:
    folder = open_or_create_store(root, "regions", {"model": "test", "dim": 6})
    files = []
    for number, plan in enumerate(plan_shards(folder, targets, shard)):
        if number == stop_after:
            return folder  # the crash: shards exist, but none is listed
        files.append(write_shard(folder, plan, [content(item.id, version) for item in plan.items]))
    commit(folder, files)
    return folder


def check(store: Store, names: list[str], version: int = 0) -> None:
    for field in store.fields:
        parts = [content(name, version)[field] for name in names]
        expected = np.stack(parts) if field == "size" else np.concatenate(parts)
        np.testing.assert_array_equal(store.read(field, names), expected)
    assert store.lengths(names).tolist() == [ROWS[name] for name in names]


def read_in_child(store: Store, names: list[str]) -> list[int]:
    check(store, names)
    return store.lengths(names).tolist()


def test_rows_are_read_by_id_in_any_order_and_process(tmp_path):
    store = Store(fill(tmp_path, items()))
    shuffled = list(np.random.default_rng(1).permutation(store.ids))
    check(store, shuffled)
    check(store, shuffled[:3] * 2)
    check(pickle.loads(pickle.dumps(store)), shuffled)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.starmap(read_in_child, [(store, shuffled[:9]), (store, shuffled[9:])])
        assert [n for part in found for n in part] == [ROWS[name] for name in shuffled]


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5])
def test_resumed_run_leaves_the_same_files_as_an_uninterrupted_one(tmp_path, stop_after):
    straight = fill(tmp_path / "straight", items())
    folder = fill(tmp_path / "crashed", items(), stop_after=stop_after)
    assert len(Store(folder)) == 0, "unlisted shards are not read"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
    fill(tmp_path / "crashed", items())
    assert all((folder / name).stat().st_mtime_ns == stamp for name, stamp in before.items()), (
        "finished shards must not be written again"
    )
    assert {p.name: sha256_file(p) for p in folder.glob("*.h5")} == {
        p.name: sha256_file(p) for p in straight.glob("*.h5")
    }
    assert (folder / "manifest.json").read_bytes() == (straight / "manifest.json").read_bytes()


def test_generation_adds_only_new_and_changed_items(tmp_path):
    first = items()[:10]
    folder = fill(tmp_path, first)
    old = Store(folder)
    assert plan_shards(folder, first, 4) == []
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    fill(tmp_path, first)
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp, "without changes nothing is written"
    fill(tmp_path, items())
    new = Store(folder)
    assert (old.generation, new.generation, len(old), len(new)) == (1, 2, 10, 23)
    check(old, list(ROWS)[:10])
    changed = items()[:3]
    changed[1] = Item(changed[1].id, "c" * 64)
    plans = plan_shards(folder, changed, 4)
    assert plans == [ShardPlan((changed[1],))]
    fill(tmp_path, changed, version=5)
    check(Store(folder), [changed[1].id], version=5)
    check(Store(folder), list(ROWS)[2:])
    assert len(Store(folder)) == 23
    assert new.content_digest(list(ROWS)) != Store(folder).content_digest(list(ROWS))


def test_invalid_items_are_listed_until_their_content_changes(tmp_path):
    folder = open_or_create_store(tmp_path, "regions", {})
    plan = plan_shards(folder, items()[:5], 5)[0]
    rows = [content(item.id) for item in plan.items]
    rows[1] = "truncated JPEG"
    rows[2]["features"] = np.full((3, 6), np.nan)
    rows[3]["features"] = np.full((4, 6), 1e6)
    commit(folder, [write_shard(folder, plan, rows)])
    store = Store(folder)
    assert len(store) == 2
    assert store.invalid_items[plan.items[1].id] == "truncated JPEG"
    assert "finite" in store.invalid_items[plan.items[2].id]
    assert "finite" in store.invalid_items[plan.items[3].id]
    assert plan_shards(folder, items()[:5], 5) == []
    fixed = Item(plan.items[1].id, "d" * 64)
    again = plan_shards(folder, [plan.items[0], fixed], 5)
    assert again == [ShardPlan((fixed,))]
    commit(folder, [write_shard(folder, again[0], [content(fixed.id)])])
    assert fixed.id in Store(folder)
    assert fixed.id not in Store(folder).invalid_items
    broken = Item(plan.items[0].id, "e" * 64)
    commit(folder, [write_shard(folder, ShardPlan((broken,)), ["gone bad"])])
    assert broken.id not in Store(folder), "rows of older content must not be read"
    with pytest.raises(ValueError, match="gone bad"):
        Store(folder).read("features", [broken.id])


def damage_file(kind: str, folder: Path) -> None:
    shard = next(iter(sorted(folder.glob("*.h5"))))
    if kind == "truncated":
        os.truncate(shard, shard.stat().st_size // 2)
    elif kind == "missing":
        shard.unlink()
    elif kind == "swapped":
        other = sorted(folder.glob("*.h5"))[-1]
        shard.write_bytes(other.read_bytes())
    elif kind == "manifest":
        (folder / "manifest.json").write_text("{")
    elif kind == "schema":
        (folder / "manifest.json").write_text(json.dumps({"schema": 99}))
    elif kind == "none":
        (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("truncated", ValueError, "shard-.*Restore the file, or run `tern store verify FOLDER --unlist-damaged`"),
        ("missing", FileNotFoundError, "listed in the manifest, but the file is missing"),
        ("swapped", ValueError, "not the file that the manifest lists"),
        ("manifest", ValueError, "not valid JSON"),
        (
            "schema",
            ValueError,
            "store schema 99, written by a newer version of this program; this version reads",
        ),
        ("none", FileNotFoundError, "Run the stage that writes the store"),
    ],
)
def test_damaged_store_raises_with_file_and_fix(tmp_path, kind, error, message):
    folder = fill(tmp_path, items())
    damage_file(kind, folder)
    with pytest.raises(error, match=message):
        Store(folder)


def test_verify_names_the_item_with_flipped_bits(tmp_path):
    folder = fill(tmp_path, items())
    assert Store(folder).verify() == []
    shard = (
        folder
        / plan_shards(open_or_create_store(tmp_path / "twin", "regions", {"model": "test", "dim": 6}), items(), 4)[
            1
        ].file
    )
    victim = spoil(shard, 2)
    problems = Store(folder).verify()
    assert len(problems) == 1
    assert victim in problems[0]
    assert shard.name in problems[0]


def test_unknown_ids_fields_and_recipes_raise(tmp_path):
    folder = fill(tmp_path, items())
    with pytest.raises(ValueError, match=r"'nobody\.jpg' is not in the store"):
        Store(folder).read("features", ["nobody.jpg"])
    with pytest.raises(ValueError, match=r"no field 'color'\. Use one of features"):
        Store(folder).read("color", list(ROWS))
    foreign = tmp_path / f"regions-{digest({'model': 'other'})}"
    folder.rename(foreign)
    with pytest.raises(ValueError, match="another recipe"):
        open_or_create_store(tmp_path, "regions", {"model": "other"})


def test_failed_atomic_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half_a_write():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        half_a_write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def shard(key: str, value: object) -> Callable[[dict], None]:
    return lambda manifest: manifest["shards"][0].__setitem__(key, value)


MANIFESTS: dict[str, Callable[[dict], object]] = {
    "items are a text": shard("items", "12"),
    "rows are a list": shard("rows", [1]),
    "half an item": shard("items", 1.5),
    "negative items": shard("items", -5),
    "the folder above": shard("file", ".."),
    "another folder": shard("file", "../shard-00.h5"),
    "hash is null": shard("sha256", None),
    "row span of one number": shard("row_spans", [[7]]),
    "a list as recipe": lambda m: m.__setitem__("recipe", [1]),
    "removed ids are dicts": lambda m: m.__setitem__("removed_ids", [{}]),
    "invalid item without reason": lambda m: m.__setitem__("invalid_items", [{"id": "x", "hash": ""}]),
    "half a generation": lambda m: m.__setitem__("generation", 1.5),
    "kind is a list": lambda m: m.__setitem__("kind", []),
    "unknown dtype": lambda m: m.__setitem__("dtype", "float8"),
    "a shard twice": lambda m: m["shards"].append(m["shards"][0]),
    "unknown key": lambda m: m.__setitem__("color", "red"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifest_with_wrong_types_raises(tmp_path, case):
    folder = fill(tmp_path, items())
    manifest = json.loads((folder / "manifest.json").read_text())
    MANIFESTS[case](manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for use in (Store, verify_store, lambda folder: plan_shards(folder, items(), 4)):
        with pytest.raises(ValueError, match=r"is not a store's manifest: .*Restore the file"):
            use(folder)


def test_deeply_nested_manifest_raises(tmp_path):
    folder = fill(tmp_path, items())
    (folder / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="not valid JSON"):
        Store(folder)


@pytest.mark.slow
def test_damaged_metadata_is_never_opened_by_hdf5(tmp_path):
    """Any flipped bit can make HDF5 loop, fail or give other ids, so the store rejects the file before."""
    folder = fill(tmp_path, items())
    path = min(folder.glob("*.h5"))
    entry = next(e for e in read_store_manifest(folder).shards if e.file == path.name)
    rows = {position for start, size in entry.row_spans for position in range(start, start + size)}
    good, draw = path.read_bytes(), np.random.default_rng(0)
    for position in draw.choice(sorted(set(range(len(good))) - rows), 10 * WRITER_KILLS, replace=False):
        broken = bytearray(good)
        broken[position] ^= 1 << int(draw.integers(8))
        path.write_bytes(broken)
        for use in (Store, lambda folder: plan_shards(folder, items(), 4)):
            with pytest.raises(ValueError, match=f"{path.name}.*Restore the file"):
                use(folder)
        lost = (
            f"damaged outside its rows, so that rows cannot be assigned to items; {entry.items} items are lost with it"
        )
        assert verify_store(folder) == [f"{path}: {lost}"]
