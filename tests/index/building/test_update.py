"""Updates and compaction against exact search over what should be there, and against a fresh build of it."""

import json
import shutil

import faiss
import numpy as np
import pytest

from index.building.build import build_index
from index.building.compact import compact_index, find_due_maintenance
from index.building.shard import build_shard
from index.building.update import IncompatibleUpdateError, update_index
from index.config import GateConfig, IndexConfig, MaintenanceConfig
from index.quality.gate import make_gate
from index.search.index import Index
from index.versions.folder import read_version_manifest
from index.versions.manifest import RowCounts
from index.versions.objects import Staging, object_path
from index.versions.switch import RejectedError
from tests.helpers.index_publish import bytes_of
from tests.helpers.index_updates import CONFIG, ORIGIN, World, edit
from tests.reference.index import answer


def test_updates_answer_as_exact_search_over_what_is_there_and_read_what_is_new_alone(root):
    world, first = World(), read_version_manifest(root)
    world.check(root)
    edit(world)
    path = world.update(root)
    assert world.asked == {"0003.jpg#0", "0004.jpg#1", "new-0001.jpg", "new-0002.jpg", "new-0001.jpg#0"}
    world.check(root)
    second = read_version_manifest(root)
    for kind, about in second.collections.items():
        assert about.shards[:2] == first.collections[kind].shards, "what is there stays as it is"
        assert [part.role for part in about.shards] == ["base", "base", "delta"]
        assert (about.trained_index, about.vector_space) == (
            first.collections[kind].trained_index,
            first.collections[kind].vector_space,
        )

    before = bytes_of(root)
    assert world.update(root) == path
    assert bytes_of(root) == before, "with nothing new nothing is written"

    gone = World()
    back = {"0005.jpg": gone.items["image"]["0005.jpg"]}
    world.items["image"] |= back
    world.items["image"]["0007.jpg"] = (world.items["image"]["0007.jpg"][0], {"id": "0007.jpg", "split": "train"})
    world.update(root)
    assert world.asked == {"0007.jpg"}, "an item that is back as it was is alive again; a row alone has changed here"
    world.check(root)


def test_a_key_never_stands_for_two_contents(root):
    world, said = World(), {}
    for step in range(4):
        world.change("image", *list(world.items["image"])[step::9])
        for name in world.items["image"]:
            vector, row = world.items["image"][name]
            world.items["image"][name] = (
                vector,
                row | {"content_hash": f"{row.get('content_hash')} {step}" if step % 2 else "x"},
            )
        world.update(root)
        with Index.open(root) as index:
            for name, row in index.get_metadata(list(world.items["image"])).items():
                content = json.dumps({k: v for k, v in row.items() if k != "key"}, sort_keys=True)
                assert said.setdefault(row["key"], content) == content, name


def test_update_then_compact_is_a_fresh_build_on_the_same_centroids(root, tmp_path):
    world = World()
    edit(world)
    world.update(root)
    world.remove("image", "0011.jpg")
    world.update(root)
    with Index.open(root) as index:
        before = {kind: answer(index.search(world.queries[kind], 10, kind)) for kind in world.items}
    path = compact_index(root)
    world.check(root)
    with Index.open(root) as index:
        for kind in world.items:
            ids, scores = answer(index.search(world.queries[kind], 10, kind))
            assert ids == before[kind][0]
            assert np.array_equal(scores, before[kind][1])
    found, fresh = read_version_manifest(root), tmp_path / "fresh"
    staging = Staging(fresh, "fresh")
    for kind, collection in world.collections().items():
        about = found.collections[kind]
        assert (about.deleted, about.counts.deleted) == (None, 0)
        place = object_path(fresh, about.trained_index)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(object_path(root, about.trained_index), place)
        from index.metadata.tables import build_table

        rows = build_table(kind, collection.metadata)
        of_shard = rows["key"].to_numpy() % 2
        parts = [
            build_shard(
                staging, f"{kind}-{n}", collection, rows.filter(of_shard == n), about.trained_index, role="base"
            )
            for n in range(2)
        ]
        assert about.shards == parts, "byte for byte: lists, vectors, metadata"
    assert compact_index(root) == path, "in order already"


def reordered(world):
    return update_index(
        IndexConfig(shards=3, nlist=4, factory="IVF{nlist},Flat"), world.collections(), world.root, ORIGIN
    )


def without_captions(world):
    return update_index(CONFIG, {"image": world.collections()["image"]}, world.root, ORIGIN)


def longer(world):
    name = "new-0001.jpg"
    world.add("image", "0001.jpg")
    vector, row = world.items["image"][name]
    world.items["image"][name] = (np.r_[vector, 0].astype(np.float32), row)
    return world.update(world.root)


def not_finite(world):
    world.change("image", "0003.jpg")
    world.items["image"]["0003.jpg"][0][:] = np.nan
    return world.update(world.root)


def strange_column(world):
    world.items["image"]["0003.jpg"][1]["color"] = "red"
    return world.update(world.root)


def wrong_type(world):
    world.items["image"]["0003.jpg"][1]["width"] = "wide"
    return world.update(world.root)


REFUSED = {
    "another model": (
        lambda world: update_index(CONFIG, world.collections(), world.root, {"model": "other"}),
        IncompatibleUpdateError,
        "model = 'abc', and this is 'other': they never mix. Build a version of its own",
    ),
    "other settings": (reordered, IncompatibleUpdateError, "settings shards = 2, and this is 3"),
    "no captions": (without_captions, IncompatibleUpdateError, "collections caption = 'there', and this is None"),
    "another dimension": (longer, IncompatibleUpdateError, "25 numbers, those of the published version 24"),
    "not finite": (not_finite, ValueError, "0003.jpg' has length nan"),
    "an unknown column": (strange_column, ValueError, "unknown column 'color'"),
    "a wrong type": (wrong_type, ValueError, "does not fit the columns"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_go_in_is_refused_and_the_published_version_stays(case, root):
    call, error, told = REFUSED[case]
    world, before = World(), bytes_of(root)
    world.root = root
    with pytest.raises(error, match=told):
        call(world)
    after = bytes_of(root)
    assert {name: after[name] for name in before} == before
    World().check(root)


def test_a_depth_that_is_left_open_is_the_number_it_comes_to(root):
    world = World()
    edit(world)
    again = lambda depth: CONFIG.model_copy(update={"rescore": depth})  # noqa: E731
    with pytest.raises(IncompatibleUpdateError, match="settings rescore = '0', and this is '5'"):
        update_index(again(5), world.collections(), root, ORIGIN)
    update_index(again(0), world.collections(), root, ORIGIN)  # whole vectors are in the lists: none is rescored
    world.check(root)


def test_without_a_version_there_is_nothing_to_update_or_compact(tmp_path):
    for call in (lambda: World().update(tmp_path), lambda: compact_index(tmp_path)):
        with pytest.raises(FileNotFoundError, match="tern index"):
            call()


def test_a_gate_that_says_no_leaves_what_is_served(root):
    world = World()
    edit(world)
    with pytest.raises(RejectedError) as refused:
        world.update(root, gate=lambda candidate, parent: {"passed": False, "reason": "recall 0.71"})
    assert refused.value.version == 2
    World().check(root)
    world.update(root, gate=lambda candidate, parent: {"passed": candidate.version > parent.version})
    world.check(root)


@pytest.mark.parametrize("ended", ["killed after the delta", "refused"])
def test_vectors_that_were_mended_since_a_try_that_failed_are_those_that_are_published(ended, root):
    """The rows say the same both times: what is left of the first try must not be taken for the second's."""
    world = World()
    edit(world)
    right = {kind: dict(items) for kind, items in world.items.items()}
    for items in world.items.values():
        new = [
            name
            for name in items
            if name.startswith("new-") or items[name][1].get("content_hash", "").startswith("changed")
        ]
        wrong = [items[name][0] for name in new[1:] + new[:1]]
        items.update({name: (vector, items[name][1]) for name, vector in zip(new, wrong, strict=True)})

    def crash(event: str) -> None:
        if event.endswith("/delta") and ended != "refused":
            raise KeyboardInterrupt

    refuse = (
        (lambda *_: {"passed": False, "reason": "vectors of other rows", "checks": {}}) if ended == "refused" else None
    )
    with pytest.raises((RejectedError, KeyboardInterrupt)):
        world.update(root, progress=crash, gate=refuse)
    world.items = right
    world.update(root)
    world.check(root)
    with Index.open(root) as index:
        for kind, items in right.items():
            for name in items:
                assert index.search(items[name][0][None], 1, kind, nprobe=4)[0][0].id == name


def test_an_index_that_has_outgrown_its_lists_is_built_anew(tmp_path):
    world = World()
    build_index(IndexConfig(), world.collections(), world.queries, tmp_path, ORIGIN)
    found = read_version_manifest(tmp_path)
    about = found.collections["image"]
    assert about.nlist == 1, "exact search"

    def asked(**other):
        return find_due_maintenance(
            found.model_copy(update={"collections": {"image": about.model_copy(update=other)}}), MaintenanceConfig()
        )

    assert asked(counts=RowCounts(live=100_001, deleted=0)) is None, "up to 50,000 rows a build makes one list"
    what, why = asked(counts=RowCounts(live=100_002, deleted=0))
    assert (what, why) == ("retrain", "100,002 images have outgrown 1 lists: 512 are right for 1/2 of them")
    far = [part.model_copy(update={"coarse_error": 9.0}) for part in about.shards]
    assert asked(shards=far) is None, "one list has no drift"


@pytest.mark.parametrize("count", [2, 4])
def test_a_delta_whose_vectors_stand_under_other_ids_is_refused_though_it_is_a_small_part(count, base, tmp_path):
    root, names = shutil.copytree(base, tmp_path / "index"), [f"{n:04d}.jpg" for n in range(count)]
    right = World()
    right.add("image", *names)
    right.update(root, gate=make_gate(GateConfig(max_sampled_rows=10), {}, right.collections()))
    assert {"image alignment", "image unchanged"} <= read_version_manifest(root).gate["checks"].keys()
    assert read_version_manifest(root).gate["checks"]["image alignment"]["count"] == count, "the new rows"

    root, wrong = shutil.copytree(base, tmp_path / "other"), World()
    wrong.add("image", *names)
    items = wrong.items["image"]
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        items[f"new-{name}"] = (right.items["image"][f"new-{other}"][0], items[f"new-{name}"][1])
    with pytest.raises(RejectedError, match=rf"image alignment: 0 of {count}, at least 0\.99"):
        wrong.update(root, gate=make_gate(GateConfig(max_sampled_rows=10), {}, right.collections()))
    World().check(root)


def test_drift_is_that_of_numpy_and_upkeep_says_what_is_due_and_why(root):
    world = World()
    about = read_version_manifest(root).collections["image"]
    head = faiss.read_index(str(object_path(root, about.trained_index)))
    centroids = head.quantizer.reconstruct_n(0, 4)

    def error(names) -> float:
        v = np.stack([world.items["image"][n][0] for n in names]).astype(np.float16).astype(np.float64)
        return float(np.mean(np.sqrt(((v - centroids[(v @ centroids.T).argmax(1)]) ** 2).sum(1))))

    first = error(world.items["image"])
    assert about.coarse_error == pytest.approx(first, abs=2e-6)
    assert find_due_maintenance(read_version_manifest(root), MaintenanceConfig()) is None

    far = -centroids.mean(0) / np.linalg.norm(centroids.mean(0))
    for k in range(3):
        row = {"id": f"far-{k}", "content_hash": "far"}
        world.items["image"][f"far-{k}"] = ((far + 0.01 * k * np.eye(24)[k]).astype(np.float32), row)
    for name, (vector, row) in list(world.items["image"].items()):
        world.items["image"][name] = (vector / np.linalg.norm(vector), row)
    world.update(root)
    grown = read_version_manifest(root)
    drift = error([f"far-{k}" for k in range(3)]) / first
    assert drift > 1.2
    what, why = find_due_maintenance(grown, MaintenanceConfig(max_drift=drift - 0.01))
    assert what == "retrain"
    assert f"{drift:.2f} times as far" in why
    assert find_due_maintenance(grown, MaintenanceConfig(max_drift=drift + 0.01)) is None
    assert find_due_maintenance(grown, MaintenanceConfig(max_drift=drift - 0.01, min_drift_fraction=0.2)) is None
    assert (
        find_due_maintenance(grown, MaintenanceConfig(max_drift=9, max_delta_fraction=3 / 63 - 0.001))[0] == "compact"
    )
    assert "delta shards" in find_due_maintenance(grown, MaintenanceConfig(max_drift=9, max_delta_fraction=0.01))[1]

    world.remove("image", *[f"far-{k}" for k in range(3)])
    world.update(root)
    assert (
        find_due_maintenance(
            read_version_manifest(root), MaintenanceConfig(max_drift=9, max_deleted_fraction=3 / 63 + 0.001)
        )
        is None
    )
    what, why = find_due_maintenance(
        read_version_manifest(root), MaintenanceConfig(max_drift=9, max_deleted_fraction=3 / 63 - 0.001)
    )
    assert (what, "dead" in why) == ("compact", True)
    compact_index(root)
    assert (
        find_due_maintenance(
            read_version_manifest(root), MaintenanceConfig(max_deleted_fraction=0.001, max_delta_fraction=0.001)
        )
        is None
    )
