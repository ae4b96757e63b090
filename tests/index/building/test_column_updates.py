"""An update in which only columns of the user's own change writes new metadata, and keeps keys and vectors."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from data.io import dump_columns
from index.building.build import build_index
from index.building.compact import compact_index
from index.building.update import update_index
from index.collection import IndexInputs
from index.config import GateConfig
from index.metadata.lookup import ShardLookup
from index.quality.gate import make_gate
from index.search.index import Index
from index.versions.folder import read_version_manifest
from index.versions.objects import object_path
from tests.helpers.index_updates import CONFIG, World


def set_likes(world: World, name: str, likes: int | None) -> None:
    """Set the column of an image and of its captions."""
    columns = None if likes is None else dump_columns({"likes": likes})
    for items in world.items.values():
        for item, (vector, row) in items.items():
            if row.image_id == name:
                items[item] = (vector, row._replace(columns=columns))


def make_inputs(world: World) -> IndexInputs:
    return replace(world.inputs(), columns={"likes": "number"})


def find(root: Path, where: str, kind: str = "image") -> set[str]:
    with Index.open(root) as index:
        collection = index.collection(kind)
        return {row.id for row in collection.rows.by_key(index._find_keys(kind, where).tolist()).values()}


@pytest.fixture
def world() -> World:
    return World()


def test_changed_column_is_an_update_of_metadata_alone(world: World, tmp_path: Path) -> None:
    set_likes(world, "0003.jpg", 3)
    set_likes(world, "0004.jpg", 4)
    inputs = make_inputs(world)
    gate = make_gate(GateConfig(), {}, inputs.collections, CONFIG)
    build_index(CONFIG, inputs, tmp_path, gate=gate)
    first = read_version_manifest(tmp_path)
    assert find(tmp_path, "likes >= 3") == {"0003.jpg", "0004.jpg"}
    assert find(tmp_path, "likes = 4", "caption") == {"0004.jpg#0", "0004.jpg#1"}

    set_likes(world, "0003.jpg", 30)
    world.read_ids.clear()
    update_index(CONFIG, make_inputs(world), tmp_path, gate=None)
    assert world.read_ids == set(), "no vector is read"
    second = read_version_manifest(tmp_path)
    assert second.version == first.version + 1
    num_changed = 0
    for kind, collection in second.collections.items():
        assert [shard.role for shard in collection.shards] == ["base", "base"]
        assert collection.deleted is None
        for old, new in zip(first.collections[kind].shards, collection.shards, strict=True):
            same = ("inverted_lists", "vectors", "row_vectors", "rows", "coarse_error")
            assert all(getattr(old, name) == getattr(new, name) for name in same)
            assert (old.metadata == new.metadata) == (old.lookup == new.lookup)
            num_changed += old.metadata != new.metadata
    assert 2 <= num_changed <= 3, "the shards of one image and its two captions, which may share one"
    assert find(tmp_path, "likes >= 3") == {"0003.jpg", "0004.jpg"}
    assert find(tmp_path, "likes = 30", "caption") == {"0003.jpg#0", "0003.jpg#1"}
    world.check(tmp_path)

    assert update_index(CONFIG, make_inputs(world), tmp_path).name == "v00000002.json", "nothing is left to do"


def test_columns_follow_rows_through_deletion_return_and_compaction(world: World, tmp_path: Path) -> None:
    build_index(CONFIG, make_inputs(world), tmp_path)
    vector, row = world.items["image"]["0005.jpg"]
    world.remove("image", "0005.jpg")
    set_likes(world, "0006.jpg", 6)
    update_index(CONFIG, make_inputs(world), tmp_path)
    world.items["image"]["0005.jpg"] = (vector, row._replace(columns=dump_columns({"likes": 5})))
    update_index(CONFIG, make_inputs(world), tmp_path)
    assert find(tmp_path, "likes >= 5") == {"0005.jpg", "0006.jpg"}
    world.items["image"]["new.jpg"] = (vector, row._replace(id="new.jpg", image_id="new.jpg", columns='{"likes":7}'))
    update_index(CONFIG, make_inputs(world), tmp_path)
    compact_index(tmp_path)
    assert find(tmp_path, "likes >= 5") == {"0005.jpg", "0006.jpg", "new.jpg"}
    assert read_version_manifest(tmp_path).columns == {"likes": "number"}
    set_likes(world, "0006.jpg", None)
    update_index(CONFIG, make_inputs(world), tmp_path)
    assert find(tmp_path, "likes >= 5") == {"0005.jpg", "new.jpg"}


def test_interrupted_update_of_columns_resumes_to_equal_bytes(world: World, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(step: str) -> None:
        raise StopError(step)

    set_likes(world, "0003.jpg", 3)
    build_index(CONFIG, make_inputs(world), tmp_path)
    set_likes(world, "0003.jpg", 4)
    set_likes(world, "0008.jpg", 4)
    with pytest.raises(StopError):
        update_index(CONFIG, make_inputs(world), tmp_path, on_step=stop)
    assert find(tmp_path, "likes = 3") == {"0003.jpg"}, "the served version stays"
    update_index(CONFIG, make_inputs(world), tmp_path)
    assert find(tmp_path, "likes = 4") == {"0003.jpg", "0008.jpg"}


def test_lookup_of_an_older_schema_has_empty_columns(world: World, tmp_path: Path) -> None:
    build_index(CONFIG, world.inputs(), tmp_path)
    shard = read_version_manifest(tmp_path).collections["image"].shards[0]
    old = tmp_path / "old.sqlite"
    old.write_bytes(object_path(tmp_path, shard.lookup).read_bytes())
    connection = sqlite3.connect(old)
    connection.execute("ALTER TABLE items DROP COLUMN columns")
    connection.commit()
    connection.close()
    lookup, new = ShardLookup(old), ShardLookup(object_path(tmp_path, shard.lookup))
    keys = lookup.keys().tolist()
    assert lookup.by_key(keys) == new.by_key(keys)
    assert lookup.query("SELECT COUNT(*) FROM items WHERE json_extract(columns, '$.likes') > 0", ()) == [(0,)]
    plan = lookup.query("EXPLAIN QUERY PLAN SELECT columns FROM items WHERE key = 3", ())
    assert "PRIMARY KEY" in str(plan), "rows are still found by their key"
