"""The gate passes good versions with figures that a reference confirms, and rejects broken ones, which are kept."""

import shutil
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from index.building.build import build_index
from index.building.compact import compact_index
from index.building.update import update_index
from index.collection import Collection, IndexInputs
from index.config import GateConfig, IndexConfig
from index.ivf.faiss_io import _open_writer
from index.ivf.vectors import ShardVectors
from index.metadata.tables import write_lookup, write_parquet
from index.quality import gate
from index.quality.audit import audit_version
from index.quality.checks import GateQueries, measure_queries
from index.quality.gate import make_gate
from index.quality.limits import check_share
from index.search.index import Index
from index.tuning import nprobe
from index.versions.folder import manifest_path, read_current, read_version_manifest
from index.versions.objects import object_path, store_object
from index.versions.switch import RejectedError
from tests.helpers.index_world import make, unit
from tests.reference.index import exact_ids

CONFIG = IndexConfig(nlist=8, shards=2)
IMAGES = 200


def scene(seed: int = 1, drop: int = 0):
    """Make collections, queries, and queries with relevant items: the exact best image or caption."""
    collections, queries = make(seed, images=IMAGES)
    if drop:
        collections = drop_last(collections, drop)
    held_out = {
        kind: GateQueries(queries[kind], exact_ids(collections[kind], queries[kind], 1)) for kind in collections
    }
    return collections, queries, held_out


def drop_last(collections: dict[str, Collection], count: int) -> dict[str, Collection]:
    """Return the collections without their last items."""
    return {
        kind: Collection(c.ids[:-count], c.vectors[:-count], c.metadata[:-count]) for kind, c in collections.items()
    }


def publish(root: Path, collections, queries, held_out, config=CONFIG, model="model", source=None, **limits) -> Path:
    judge = make_gate(GateConfig(**limits), held_out, source or collections, config)
    return build_index(config, IndexInputs(collections, queries, {"model": model}), root, gate=judge)


def shuffle_vectors(collection: Collection, seed: int = 0) -> Collection:
    order = np.random.default_rng(seed).permutation(len(collection.ids))
    return replace(collection, vectors=collection.vectors[order])


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("gate")
    publish(root, *scene())
    return root


@pytest.fixture
def root(served, tmp_path) -> Path:
    """A copy of the published index."""
    return shutil.copytree(served, tmp_path / "index")


def test_good_version_passes_with_figures_of_reference(root):
    collections, queries, held_out = scene(drop=20)
    path = publish(root, collections, queries, held_out)
    verdict = read_version_manifest(root, 2).gate
    assert path == manifest_path(root, 2)
    assert verdict.passed
    assert verdict.compared_with == 1
    checks = verdict.checks
    assert set(checks) == {"objects"} | {
        f"{kind} {name}"
        for kind in collections
        for name in ("rows", "alignment", "unchanged", "removed", "recall", "success@10", "latency")
    }
    with Index.open(root) as index, Index.open(root, 1) as before:
        for kind, collection in collections.items():
            order = np.random.Generator(np.random.PCG64(0)).permutation(len(queries[kind]))
            test_queries = queries[kind][order[1::2]]
            relevant_ids = [held_out[kind].relevant_ids[i] for i in order[1::2]]
            recall, success = checks[f"{kind} recall"], checks[f"{kind} success@10"]
            for version, content, measured_recall, measured_success in (
                (index, collection, recall.value, success.value),
                (before, scene()[0][kind], recall.served_value, success.served_value),
            ):
                lines = [[hit.id for hit in line] for line in version.search(test_queries, 10, kind)]
                best = exact_ids(content, test_queries, 10)
                share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(lines, best, strict=True)])
                assert measured_recall == pytest.approx(share, abs=1e-4)
                share = np.mean([bool(set(a) & set(b)) for a, b in zip(lines, relevant_ids, strict=True)])
                assert measured_success == pytest.approx(share, abs=1e-4)
            assert checks[f"{kind} alignment"].value == checks[f"{kind} unchanged"].value == 1


def test_served_version_is_not_measured_again_with_the_same_queries(root, monkeypatch):
    collections, queries, held_out = scene()
    calls = []

    def record(collection, queries):
        calls.append(queries)
        return measure_queries(collection, queries)

    monkeypatch.setattr(gate, "measure_queries", record)
    publish(root, drop_last(collections, 9), queries, held_out)
    assert len(calls) == 2, "the two collections of the candidate"
    first, second = (read_version_manifest(root, version).gate for version in (1, 2))
    assert first.query_digests == second.query_digests
    for kind in collections:
        assert second.checks[f"{kind} recall"].served_value == first.checks[f"{kind} recall"].value
    other_queries = {kind: GateQueries(query_set.vectors) for kind, query_set in held_out.items()}
    publish(root, drop_last(collections, 19), queries, other_queries)
    assert len(calls) == 6, "other queries are run on both versions"


def test_gate_runs_only_queries_that_did_not_choose_nprobe(tmp_path, monkeypatch):
    collections, queries, _ = scene()
    rng, config = np.random.default_rng(5), CONFIG.model_copy(update={"seed": 3})
    many = {kind: unit(rng.standard_normal((2_300, array.shape[1]))) for kind, array in queries.items()}
    tuned, judged, kth_scores = [], [], nprobe.kth_scores

    def record_tuning(collection, half):
        tuned.append({row.tobytes() for row in half})
        return kth_scores(collection, half)

    def record_gate(collection, queries):
        judged.append(queries)
        return measure_queries(collection, queries)

    monkeypatch.setattr(nprobe, "kth_scores", record_tuning)
    monkeypatch.setattr(gate, "measure_queries", record_gate)
    publish(tmp_path, collections, many, {kind: GateQueries(array) for kind, array in many.items()}, config)
    assert [len(half) for half in tuned] == [1_000] * 4
    for i, queries in enumerate(judged):
        rows = {row.tobytes() for row in queries.vectors}
        assert (len(rows), rows & tuned[2 * i], rows <= tuned[2 * i + 1]) == (250, set(), True)


def test_check_share_needs_many_values_to_reject():
    values = np.array([1, 1, 1, 0, 1, 0], bool)
    assert check_share(values, 0.9).passed
    assert not check_share(np.tile(values, 20), 0.9).passed
    assert check_share(np.zeros(1), 0.9).passed
    assert not check_share(np.zeros(10), 0.9).passed


def with_shuffled_source(collections, queries, held_out):
    damaged = {kind: shuffle_vectors(collection) for kind, collection in collections.items()}
    return {"collections": damaged, "queries": queries, "held_out": held_out, "source": collections}


def with_shuffled_input(collections, queries, held_out):
    damaged = collections | {"image": shuffle_vectors(collections["image"])}
    return {"collections": damaged, "queries": queries, "held_out": held_out}


def with_coarse_quantizer(collections, queries, held_out):
    config = IndexConfig(nlist=32, shards=2, factory="IVF{nlist},PQ2x4np", target_recall=0.05)
    return {"collections": collections, "queries": queries, "held_out": held_out, "config": config}


def with_bad_model(collections, queries, held_out):
    noise = {kind: make(9, images=IMAGES)[0][kind].vectors for kind in collections}
    damaged = {kind: replace(collection, vectors=noise[kind]) for kind, collection in collections.items()}
    return {"collections": damaged, "queries": queries, "held_out": held_out, "model": "another model"}


@pytest.mark.parametrize(
    ("make_arguments", "message"),
    [
        (with_shuffled_source, r"image alignment: 0(\.0\d+)? over 200, minimum 0\.99"),
        (with_shuffled_input, r"image unchanged: 0 over 200, minimum 0\.99.*image success@10: 0\.\d+ over 60"),
        (
            with_coarse_quantizer,
            r"image recall: 0\.\d+ over 60, minimum 0\.9\d*, served version (1|0\.9\d+)",
        ),
        (with_bad_model, r"image success@10: 0\.\d+ over 60, minimum 0\.9\d*, served version (1|0\.9\d+)"),
    ],
)
def test_broken_candidate_is_kept_with_its_verdict_and_current_does_not_change(make_arguments, message, root):
    pointer = read_current(root)
    with pytest.raises(RejectedError, match=message) as rejected:
        publish(root, **make_arguments(*scene()))
    assert "version 1 is still served" in str(rejected.value)
    assert "the limits in [gate]" in str(rejected.value)
    assert read_current(root) == pointer
    verdict = read_version_manifest(root, 2).gate
    assert not verdict.passed
    assert verdict.checks == rejected.value.checks
    with Index.open(root) as index:
        assert index.version == 1


def test_shuffled_candidate_is_rejected_without_served_version(tmp_path):
    collections, queries, held_out = scene()
    damaged = collections | {"caption": shuffle_vectors(collections["caption"])}
    with pytest.raises(RejectedError, match=r"caption alignment.*nothing is published"):
        publish(tmp_path, damaged, queries, held_out, source=collections)
    assert read_current(tmp_path) is None


def test_limits_are_settings(root):
    with pytest.raises(RejectedError, match=r"image latency: .* ms per query, maximum 1e-06"):
        publish(root, *scene(drop=10), max_latency_ms=1e-6)
    publish(root, **with_bad_model(*scene()), max_success_drop=1, max_recall_drop=1)
    assert read_current(root).version == 3


@pytest.mark.parametrize("part", ["inverted_lists", "vectors", "metadata", "lookup"])
def test_audit_finds_part_of_another_version(part, root):
    publish(root, *scene(drop=10))
    first, second = (read_version_manifest(root, version) for version in (1, 2))
    collection_manifest = second.collections["image"]
    other_part = getattr(first.collections["image"].shards[0], part)
    shards = [collection_manifest.shards[0].model_copy(update={part: other_part}), *collection_manifest.shards[1:]]
    mixed = second.model_copy(
        update={"collections": {"image": collection_manifest.model_copy(update={"shards": shards})}}
    )
    problems = audit_version(Index(root, mixed))
    assert problems["objects"] == ""
    assert problems["image rows"].startswith("shard 0: ")


@pytest.mark.parametrize("part", ["inverted_lists", "vectors", "metadata", "lookup"])
def test_audit_finds_parts_exchanged_between_shards(part, root):
    first = read_version_manifest(root, 1)
    collection_manifest = first.collections["image"]
    first_shard, second_shard = collection_manifest.shards
    updates = {part: getattr(second_shard, part)}, {part: getattr(first_shard, part)}
    shards = [
        shard.model_copy(update=update) for shard, update in zip((first_shard, second_shard), updates, strict=True)
    ]
    mixed = first.model_copy(
        update={"collections": {"image": collection_manifest.model_copy(update={"shards": shards})}}
    )
    with Index(root, mixed) as index:
        assert audit_version(index)["image rows"].startswith("shard 0: ")


@pytest.mark.parametrize("part", ["metadata", "lookup"])
def test_audit_finds_rows_under_other_keys(part, root, tmp_path):
    first = read_version_manifest(root, 1)
    collection_manifest = first.collections["image"]
    table = pq.read_table(object_path(root, collection_manifest.shards[1].metadata))
    order = np.random.default_rng(0).permutation(table.num_rows)
    mixed = table.take(order).set_column(0, table.schema.field("key"), table["key"])
    write = {"metadata": write_parquet, "lookup": write_lookup}[part]
    write(tmp_path / "mixed", mixed)
    shards = [
        collection_manifest.shards[0],
        collection_manifest.shards[1].model_copy(update={part: store_object(root, tmp_path / "mixed")}),
    ]
    mixed_manifest = first.model_copy(
        update={"collections": {"image": collection_manifest.model_copy(update={"shards": shards})}}
    )
    with Index(root, mixed_manifest) as index:
        problem = audit_version(index)["image rows"]
    assert problem.startswith(f"shard 1: in its {part} '0")
    assert "has the key of another row" in problem


def test_audit_finds_flipped_bit(root):
    path = object_path(root, read_version_manifest(root, 1).collections["caption"].shards[1].inverted_lists)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with Index.open(root) as index:
        assert "caption inverted_lists of shard 1" in audit_version(index)["objects"]


def test_compaction_must_give_results_of_its_source(root):
    collections = scene()[0]
    update_index(CONFIG, IndexInputs(drop_last(collections, 9), provenance={"model": "model"}), root)
    judge = make_gate(GateConfig(), {}, {})
    compact_index(root, gate=judge)
    checks = read_version_manifest(root).gate.checks
    assert checks["image results"].value == checks["caption results"].value == 1

    compacted = read_version_manifest(root)
    collection_manifest = compacted.collections["image"]
    index = faiss.read_index(str(object_path(root, collection_manifest.trained_index)))
    stored = ShardVectors(object_path(root, collection_manifest.shards[0].vectors))
    index.add_with_ids(np.roll(stored.vectors, 1, axis=0).astype(np.float32), np.array(stored.keys))
    with _open_writer(root / "lists") as writer:
        faiss.write_InvertedLists(index.invlists, writer)
    parts = [
        collection_manifest.shards[0].model_copy(update={"inverted_lists": store_object(root, root / "lists")}),
        *collection_manifest.shards[1:],
    ]
    mixed = compacted.model_copy(
        update={
            "collections": compacted.collections | {"image": collection_manifest.model_copy(update={"shards": parts})}
        }
    )
    with Index(root, mixed) as candidate, Index.open(root) as served:
        verdict = judge(candidate, served)
    assert verdict.checks["image rows"].passed, "the keys are correct, but their codes are of other rows"
    assert not verdict.checks["image results"].passed
