"""Updates and compactions compared with exact search over the expected items, and with a fresh build."""

import json
import shutil
from dataclasses import replace

import faiss
import numpy as np
import pytest

from index.building.build import build_index
from index.building.compact import compact_index, find_due_maintenance
from index.building.shard import build_shard
from index.building.update import IncompatibleUpdateError, update_index
from index.config import GateConfig, IndexConfig, MaintenanceConfig
from index.ivf import faiss_io
from index.metadata.schema import Row
from index.metadata.tables import build_table
from index.quality.gate import make_gate
from index.search.index import Index
from index.versions.folder import read_version_manifest
from index.versions.manifest import RowCounts
from index.versions.objects import Staging, object_path
from index.versions.switch import RejectedError
from index.versions.verdict import GateVerdict
from tests.helpers.index_publish import bytes_of
from tests.helpers.index_updates import CONFIG, World, edit
from tests.reference.index import split_hits


def test_update_equals_exact_search_and_reads_only_new_vectors(root):
    world, first = World(), read_version_manifest(root)
    world.check(root)
    edit(world)
    path = world.update(root)
    assert world.read_ids == {"0003.jpg#0", "0004.jpg#1", "new-0001.jpg", "new-0002.jpg", "new-0001.jpg#0"}
    world.check(root)
    second = read_version_manifest(root)
    for kind, collection_manifest in second.collections.items():
        assert collection_manifest.shards[:2] == first.collections[kind].shards, "base shards do not change"
        assert [shard.role for shard in collection_manifest.shards] == ["base", "base", "delta"]
        assert (collection_manifest.trained_index, collection_manifest.vector_space) == (
            first.collections[kind].trained_index,
            first.collections[kind].vector_space,
        )

    before = bytes_of(root)
    assert world.update(root) == path
    assert bytes_of(root) == before, "without changes nothing is written"

    original = World()
    world.items["image"]["0005.jpg"] = original.items["image"]["0005.jpg"]
    world.items["image"]["0007.jpg"] = (world.items["image"]["0007.jpg"][0], Row("image", "0007.jpg", split="train"))
    world.update(root)
    assert world.read_ids == {"0007.jpg"}, "an item that returns unchanged is live again; of the other the row changed"
    world.check(root)


def test_updates_of_one_list_of_codes_equal_exact_search(tmp_path, monkeypatch):
    monkeypatch.setattr(faiss_io, "EXACT_ROWS", 20)
    config, world = IndexConfig(shards=2, rescore=200), World()  # more rescored rows than there are rows
    build_index(config, world.inputs(), tmp_path)
    collections = read_version_manifest(tmp_path).collections
    assert {manifest.factory for manifest in collections.values()} == {"IVF1,PQ12x4fs"}
    assert not any(manifest.is_exact for manifest in collections.values())
    world.check(tmp_path)
    edit(world)
    update_index(config, world.inputs(), tmp_path)
    world.check(tmp_path)
    world.remove("image", "0011.jpg")
    update_index(config, world.inputs(), tmp_path)
    world.check(tmp_path)
    compact_index(tmp_path)
    world.check(tmp_path)


def test_key_never_stands_for_two_contents(root):
    world, content_by_key = World(), {}
    for step in range(4):
        world.change("image", *list(world.items["image"])[step::9])
        for name in world.items["image"]:
            vector, row = world.items["image"][name]
            content_hash = f"{row.content_hash} {step}" if step % 2 else "x"
            world.items["image"][name] = (vector, row._replace(content_hash=content_hash))
        world.update(root)
        with Index.open(root) as index:
            for name, row in index.get_metadata(list(world.items["image"])).items():
                content = json.dumps(row._replace(key=None))
                assert content_by_key.setdefault(row.key, content) == content, name


def test_compaction_equals_fresh_build_on_same_centroids(root, tmp_path):
    world = World()
    edit(world)
    world.update(root)
    world.remove("image", "0011.jpg")
    world.update(root)
    with Index.open(root) as index:
        before = {kind: split_hits(index.search(world.queries[kind], 10, kind)) for kind in world.items}
    path = compact_index(root)
    world.check(root)
    with Index.open(root) as index:
        for kind in world.items:
            ids, scores = split_hits(index.search(world.queries[kind], 10, kind))
            assert ids == before[kind][0]
            assert np.array_equal(scores, before[kind][1])
    compacted, fresh = read_version_manifest(root), tmp_path / "fresh"
    staging = Staging(fresh, "fresh")
    for kind, collection in world.collections().items():
        collection_manifest = compacted.collections[kind]
        assert (collection_manifest.deleted, collection_manifest.counts.deleted) == (None, 0)
        trained_index = object_path(fresh, collection_manifest.trained_index)
        trained_index.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(object_path(root, collection_manifest.trained_index), trained_index)
        rows = build_table(kind, collection.metadata)
        shard_numbers = rows["key"].to_numpy() % 2
        shards = [
            build_shard(
                staging,
                f"{kind}-{n}",
                collection,
                rows.filter(shard_numbers == n),
                collection_manifest.trained_index,
                role="base",
            )
            for n in range(2)
        ]
        assert collection_manifest.shards == shards, "equal bytes: lists, vectors, metadata"
    assert compact_index(root) == path, "a second compaction does nothing"


def with_three_shards(world):
    config = IndexConfig(shards=3, nlist=4, factory="IVF{nlist},Flat")
    return update_index(config, world.inputs(), world.root)


def with_another_model(world):
    return update_index(CONFIG, world.inputs({"model": "other"}), world.root)


def without_collections(world):
    return update_index(CONFIG, replace(world.inputs(), collections={}), world.root)


def with_longer_vector(world):
    name = "new-0001.jpg"
    world.add("image", "0001.jpg")
    vector, row = world.items["image"][name]
    world.items["image"][name] = (np.r_[vector, 0].astype(np.float32), row)
    return world.update(world.root)


def with_nan(world):
    world.change("image", "0003.jpg")
    world.items["image"]["0003.jpg"][0][:] = np.nan
    return world.update(world.root)


def replace_row(world, **values):
    vector, row = world.items["image"]["0003.jpg"]
    world.items["image"]["0003.jpg"] = (vector, row._replace(**values))
    return world.update(world.root)


INVALID = {
    "another model": (
        with_another_model,
        IncompatibleUpdateError,
        "built with model = 'abc'; the plan now has 'other'. An update cannot change it. Build a new version",
    ),
    "other settings": (with_three_shards, IncompatibleUpdateError, "built with shards = 2; the plan now has 3"),
    "no collections": (without_collections, ValueError, "no collections to index. Pass the vectors of images"),
    "another dimension": (with_longer_vector, IncompatibleUpdateError, "25 numbers, those of the published version 24"),
    "not finite": (with_nan, ValueError, "0003.jpg' has length nan"),
    "another kind": (lambda world: replace_row(world, kind="video"), ValueError, "'0003.jpg' has kind 'video'"),
    "a wrong type": (lambda world: replace_row(world, width="wide"), ValueError, "does not fit the columns"),
}


@pytest.mark.parametrize("case", INVALID)
def test_update_rejects_invalid_input_and_keeps_published_version(case, root):
    call, error, message = INVALID[case]
    world, before = World(), bytes_of(root)
    world.root = root
    with pytest.raises(error, match=message):
        call(world)
    after = bytes_of(root)
    assert {name: after[name] for name in before} == before
    World().check(root)


def test_update_compares_effective_rescore(root):
    world = World()
    edit(world)

    def update(rescore: int):
        return update_index(CONFIG.model_copy(update={"rescore": rescore}), world.inputs(), root)

    with pytest.raises(IncompatibleUpdateError, match="rescore = '0'; the plan now has '5'"):
        update(5)
    update(0)  # the default for these codes, which are uncompressed
    world.check(root)


def test_update_and_compaction_require_published_version(tmp_path):
    for call in (lambda: World().update(tmp_path), lambda: compact_index(tmp_path)):
        with pytest.raises(FileNotFoundError, match="tern index"):
            call()


def test_rejected_update_keeps_served_version(root):
    world = World()
    edit(world)
    with pytest.raises(RejectedError) as rejected:
        world.update(root, gate=lambda candidate, served: GateVerdict(passed=False, reason="recall 0.71"))
    assert rejected.value.version == 2
    World().check(root)
    world.update(root, gate=lambda candidate, served: GateVerdict(passed=candidate.version > served.version))
    world.check(root)


@pytest.mark.parametrize("end", ["killed after the delta", "rejected"])
def test_update_publishes_vectors_corrected_since_failed_attempt(end, root):
    """Both attempts have the same rows, so the vectors of the first one must not be reused for the second."""
    world = World()
    edit(world)
    correct = {kind: dict(items) for kind, items in world.items.items()}
    for items in world.items.values():
        new = [
            name
            for name, (_, row) in items.items()
            if name.startswith("new-") or (row.content_hash or "").startswith("changed")
        ]
        exchanged = [items[name][0] for name in new[1:] + new[:1]]
        items.update({name: (vector, items[name][1]) for name, vector in zip(new, exchanged, strict=True)})

    def crash(step: str) -> None:
        if step.endswith("/delta") and end != "rejected":
            raise KeyboardInterrupt

    def reject(*_) -> GateVerdict:
        return GateVerdict(passed=False, reason="vectors of other rows")

    with pytest.raises((RejectedError, KeyboardInterrupt)):
        world.update(root, on_step=crash, gate=reject if end == "rejected" else None)
    world.items = correct
    world.update(root)
    world.check(root)
    with Index.open(root) as index:
        for kind, items in correct.items():
            for name in items:
                assert index.search(items[name][0][None], 1, kind, nprobe=4)[0][0].id == name


def test_index_that_outgrows_its_lists_is_retrained(tmp_path):
    build_index(IndexConfig(), World().inputs(), tmp_path)
    manifest = read_version_manifest(tmp_path)
    collection_manifest = manifest.collections["image"]
    assert collection_manifest.nlist == 1, "exact search"

    def find_due(**changes):
        changed = manifest.model_copy(update={"collections": {"image": collection_manifest.model_copy(update=changes)}})
        return find_due_maintenance(changed, MaintenanceConfig())

    assert find_due(counts=RowCounts(live=10_001, deleted=0)) is None, "a build is exact up to 5,000 rows"
    assert find_due(counts=RowCounts(live=10_002, deleted=0)) == (
        "retrain",
        "10,002 images have outgrown exact search: a build would choose IVF1,PQ12x4fs for 1/2 of them",
    )
    codes = {"factory": "IVF1,PQ12x4fs"}
    assert find_due(**codes, counts=RowCounts(live=100_001, deleted=0)) is None, "one list up to 50,000 rows"
    assert find_due(**codes, counts=RowCounts(live=100_002, deleted=0)) == (
        "retrain",
        "100,002 images have outgrown 1 lists: a build would choose 128 lists for 1/2 of them",
    )
    far = [shard.model_copy(update={"coarse_error": 9.0}) for shard in collection_manifest.shards]
    assert find_due(shards=far) is None, "one list has no drift"


@pytest.mark.parametrize("count", [2, 4])
def test_gate_rejects_small_delta_with_exchanged_vectors(count, base, tmp_path):
    root, names = shutil.copytree(base, tmp_path / "index"), [f"{n:04d}.jpg" for n in range(count)]
    correct = World()
    correct.add("image", *names)
    correct.update(root, gate=make_gate(GateConfig(max_sampled_rows=10), {}, correct.collections()))
    checks = read_version_manifest(root).gate.checks
    assert {"image alignment", "image unchanged"} <= checks.keys()
    assert checks["image alignment"].count == count, "the new rows"

    root, exchanged = shutil.copytree(base, tmp_path / "other"), World()
    exchanged.add("image", *names)
    items = exchanged.items["image"]
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        items[f"new-{name}"] = (correct.items["image"][f"new-{other}"][0], items[f"new-{name}"][1])
    with pytest.raises(RejectedError, match=rf"image alignment: 0 over {count}, minimum 0\.99"):
        exchanged.update(root, gate=make_gate(GateConfig(max_sampled_rows=10), {}, correct.collections()))
    World().check(root)


def test_drift_equals_numpy_and_maintenance_reports_action_and_reason(root):
    world = World()
    collection_manifest = read_version_manifest(root).collections["image"]
    trained_index = faiss.read_index(str(object_path(root, collection_manifest.trained_index)))
    centroids = trained_index.quantizer.reconstruct_n(0, 4)

    def mean_distance(names) -> float:
        v = np.stack([world.items["image"][n][0] for n in names]).astype(np.float16).astype(np.float64)
        return float(np.mean(np.sqrt(((v - centroids[(v @ centroids.T).argmax(1)]) ** 2).sum(1))))

    def find_due(**limits):
        return find_due_maintenance(read_version_manifest(root), MaintenanceConfig(**limits))

    first = mean_distance(world.items["image"])
    assert collection_manifest.coarse_error == pytest.approx(first, abs=2e-6)
    assert find_due() is None

    far = -centroids.mean(0) / np.linalg.norm(centroids.mean(0))
    for k in range(3):
        vector = (far + 0.01 * k * np.eye(24)[k]).astype(np.float32)
        world.items["image"][f"far-{k}"] = (vector, Row("image", f"far-{k}", content_hash="far"))
    for name, (vector, row) in list(world.items["image"].items()):
        world.items["image"][name] = (vector / np.linalg.norm(vector), row)
    world.update(root)
    drift = mean_distance([f"far-{k}" for k in range(3)]) / first
    assert drift > 1.2
    due = find_due(max_drift=drift - 0.01)
    assert due.action == "retrain"
    assert f"{drift:.2f} times as far" in due.reason
    assert find_due(max_drift=drift + 0.01) is None
    assert find_due(max_drift=drift - 0.01, min_drift_fraction=0.2) is None
    assert find_due(max_drift=9, max_delta_fraction=3 / 63 - 0.001).action == "compact"
    assert "delta shards" in find_due(max_drift=9, max_delta_fraction=0.01).reason

    world.remove("image", *[f"far-{k}" for k in range(3)])
    world.update(root)
    assert find_due(max_drift=9, max_deleted_fraction=3 / 63 + 0.001) is None
    due = find_due(max_drift=9, max_deleted_fraction=3 / 63 - 0.001)
    assert (due.action, "deleted" in due.reason) == ("compact", True)
    compact_index(root)
    assert find_due(max_deleted_fraction=0.001, max_delta_fraction=0.001) is None
