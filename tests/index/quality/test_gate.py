"""The gate: good versions pass with figures that slow loops confirm; broken ones are refused, kept, never served."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from index.building.build import build_index
from index.building.compact import compact_index
from index.building.update import update_index
from index.collection import Collection
from index.config import GateConfig, IndexConfig
from index.ivf.faiss_io import _writing
from index.ivf.vectors import ShardVectors
from index.metadata.tables import write_lookup, write_parquet
from index.quality import gate as gate
from index.quality.audit import audit_version
from index.quality.checks import HeldOutQueries, check_share, measure_queries
from index.quality.gate import make_gate
from index.search.index import Index
from index.versions.folder import manifest_path, read_current, read_version_manifest
from index.versions.objects import object_path, store_object
from index.versions.switch import RejectedError
from tests.helpers.index_world import make, unit
from tests.reference.index import slow

CONFIG = IndexConfig(nlist=8, shards=2)
IMAGES = 200


def scene(seed: int = 1, drop: int = 0):
    """Collections, queries, and right answers: the exact best image or caption stands for the truth."""
    collections, queries = make(seed, images=IMAGES)
    if drop:
        kept = {
            kind: Collection(c.ids[:-drop], c.vectors[:-drop], c.metadata[:-drop]) for kind, c in collections.items()
        }
        collections = kept
    asked = {kind: HeldOutQueries(queries[kind], slow(collections[kind], queries[kind], 1)) for kind in collections}
    return collections, queries, asked


def publish(root: Path, collections, queries, asked, config=CONFIG, origin="model", source=None, **limits) -> Path:
    judge = make_gate(GateConfig(**limits), asked, source or collections, config)
    return build_index(config, collections, queries, root, {"model": origin}, gate=judge)


def shuffled(collection: Collection, seed: int = 0) -> Collection:
    order = np.random.default_rng(seed).permutation(len(collection.ids))
    return replace(collection, vectors=collection.vectors[order])


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("gate")
    publish(root, *scene())
    return root


@pytest.fixture
def root(served, tmp_path) -> Path:
    """A copy of the index that is served, to publish to."""
    return shutil.copytree(served, tmp_path / "index")


def test_a_good_version_passes_and_its_figures_are_those_of_slow_loops(root):
    collections, queries, asked = scene(drop=20)
    path = publish(root, collections, queries, asked)
    verdict = read_version_manifest(root, 2).gate
    assert path == manifest_path(root, 2)
    assert verdict["passed"]
    assert verdict["compared_with"] == 1
    checks = verdict["checks"]
    assert set(checks) == {"objects"} | {
        f"{kind} {what}"
        for kind in collections
        for what in ("rows", "alignment", "unchanged", "recall", "success@10", "latency")
    }
    with Index.open(root) as index, Index.open(root, 1) as before:
        for kind, collection in collections.items():
            order = np.random.Generator(np.random.PCG64(0)).permutation(len(queries[kind]))
            held = queries[kind][order[1::2]]
            for version, content, name in ((index, collection, "value"), (before, scene()[0][kind], "served_value")):
                lines = [[hit.id for hit in line] for line in version.search(held, 10, kind)]
                best = slow(content, held, 10)
                right = [asked[kind].relevant_ids[i] for i in order[1::2]]
                share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(lines, best, strict=True)])
                assert checks[f"{kind} recall"][name] == pytest.approx(share, abs=1e-4)
                share = np.mean([bool(set(a) & set(b)) for a, b in zip(lines, right, strict=True)])
                assert checks[f"{kind} success@10"][name] == pytest.approx(share, abs=1e-4)
            assert checks[f"{kind} alignment"]["value"] == checks[f"{kind} unchanged"]["value"] == 1


def test_what_is_served_is_not_asked_again_what_it_was_asked(root, monkeypatch):
    collections, queries, asked = scene()
    fewer = {kind: Collection(c.ids[:-9], c.vectors[:-9], c.metadata[:-9]) for kind, c in collections.items()}
    calls = []
    monkeypatch.setattr(gate, "answered", lambda *given: calls.append(given) or measure_queries(*given))
    publish(root, fewer, queries, asked)
    assert len(calls) == 2, "the candidate's two collections"
    first, second = (read_version_manifest(root, version).gate for version in (1, 2))
    assert first["query_digests"] == second["query_digests"]
    for kind in collections:
        assert second["checks"][f"{kind} recall"]["served_value"] == first["checks"][f"{kind} recall"]["value"]
    least = {kind: Collection(c.ids[:-19], c.vectors[:-19], c.metadata[:-19]) for kind, c in collections.items()}
    publish(root, least, queries, {kind: HeldOutQueries(some.vectors) for kind, some in asked.items()})
    assert len(calls) == 6, "other questions"


def test_the_queries_that_judge_did_not_choose_nprobe_where_there_are_more_than_a_build_asks(tmp_path, monkeypatch):
    collections, queries, _ = scene()
    rng, config = np.random.default_rng(5), CONFIG.model_copy(update={"seed": 3})
    many = {kind: unit(rng.standard_normal((2_300, array.shape[1]))) for kind, array in queries.items()}
    measured, judging = [], []
    tuning, kth_score = sys.modules["index.tuning.nprobe"], sys.modules["index.tuning.nprobe"].kth_score
    spy = lambda collection, half: measured.append({row.tobytes() for row in half}) or kth_score(collection, half)  # noqa: E731
    monkeypatch.setattr(tuning, "kth_score", spy)
    monkeypatch.setattr(gate, "answered", lambda opened, asked: judging.append(asked) or measure_queries(opened, asked))
    publish(tmp_path, collections, many, {kind: HeldOutQueries(array) for kind, array in many.items()}, config)
    assert [len(half) for half in measured] == [1_000] * 4
    for i, asked in enumerate(judging):
        rows = {row.tobytes() for row in asked.vectors}
        assert (len(rows), rows & measured[2 * i], rows <= measured[2 * i + 1]) == (250, set(), True)


def test_few_queries_prove_little_and_many_equal_ones_much():
    bad = np.array([1, 1, 1, 0, 1, 0], bool)
    assert check_share(bad, 0.9)["passed"]
    assert not check_share(np.tile(bad, 20), 0.9)["passed"]
    assert check_share(np.zeros(1), 0.9)["passed"]
    assert not check_share(np.zeros(10), 0.9)["passed"]


def broken_shuffled_source(collections, queries, asked):
    wrong = {kind: shuffled(collection) for kind, collection in collections.items()}
    return {"collections": wrong, "queries": queries, "asked": asked, "source": collections}


def broken_shuffled_input(collections, queries, asked):
    return {"collections": collections | {"image": shuffled(collections["image"])}, "queries": queries, "asked": asked}


def broken_quantizer(collections, queries, asked):
    config = IndexConfig(nlist=32, shards=2, factory="IVF{nlist},PQ2x4np", target_recall=0.05)
    return {"collections": collections, "queries": queries, "asked": asked, "config": config}


def broken_model(collections, queries, asked):
    noise = {kind: make(9, images=IMAGES)[0][kind].vectors for kind in collections}
    wrong = {kind: replace(collection, vectors=noise[kind]) for kind, collection in collections.items()}
    return {"collections": wrong, "queries": queries, "asked": asked, "origin": "another model"}


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (broken_shuffled_source, r"image alignment: 0(\.0\d+)? of 200, at least 0\.99"),
        (broken_shuffled_input, r"image unchanged: 0 of 200, at least 0\.99.*image success@10: 0\.\d+ of 60"),
        (broken_quantizer, r"image recall: 0\.\d+ of 60, at least 0\.9\d* is asked, served (1|0\.9\d+)"),
        (broken_model, r"image success@10: 0\.\d+ of 60, at least 0\.9\d* is asked, served (1|0\.9\d+)"),
    ],
)
def test_a_broken_candidate_is_kept_with_its_verdict_and_current_does_not_move(broken, says, root):
    pointer = read_current(root)
    with pytest.raises(RejectedError, match=says) as refused:
        publish(root, **broken(*scene()))
    assert "version 1 is served as before" in str(refused.value)
    assert "the settings of [gate]" in str(refused.value)
    assert read_current(root) == pointer
    verdict = read_version_manifest(root, 2).gate
    assert not verdict["passed"]
    assert verdict["checks"] == refused.value.checks
    with Index.open(root) as index:
        assert index.version == 1


def test_without_a_served_version_a_shuffled_candidate_is_refused_too(tmp_path):
    collections, queries, asked = scene()
    wrong = collections | {"caption": shuffled(collections["caption"])}
    with pytest.raises(RejectedError, match=r"caption alignment.*nothing is published"):
        publish(tmp_path, wrong, queries, asked, source=collections)
    assert read_current(tmp_path) is None


def test_limits_are_settings(root):
    with pytest.raises(RejectedError, match=r"image latency: .* ms a query, at most 1e-06 is asked"):
        publish(root, *scene(drop=10), latency=1e-6)
    publish(root, **broken_model(*scene()), max_success_drop=1, max_recall_drop=1)
    assert read_current(root)["version"] == 3


@pytest.mark.parametrize("what", ["inverted_lists", "vectors", "metadata", "lookup"])
def test_parts_of_different_rows_are_found(what, root):
    publish(root, *scene(drop=10))
    first, second = (read_version_manifest(root, version) for version in (1, 2))
    about = second.collections["image"]
    foreign = getattr(first.collections["image"].shards[0], what)
    shards = [about.shards[0].model_copy(update={what: foreign}), *about.shards[1:]]
    mixed = second.model_copy(update={"collections": {"image": about.model_copy(update={"shards": shards})}})
    found = audit_version(Index(root, mixed))
    assert found["objects"] == ""
    assert found["image rows"].startswith("shard 0: ")


@pytest.mark.parametrize("what", ["inverted_lists", "vectors", "metadata", "lookup"])
def test_parts_of_two_shards_that_are_swapped_are_found(what, root):
    first = read_version_manifest(root, 1)
    about = first.collections["image"]
    one, two = about.shards
    other = {what: getattr(two, what)}, {what: getattr(one, what)}
    shards = [shard.model_copy(update=update) for shard, update in zip((one, two), other, strict=True)]
    wrong = first.model_copy(update={"collections": {"image": about.model_copy(update={"shards": shards})}})
    with Index(root, wrong) as index:
        assert audit_version(index)["image rows"].startswith("shard 0: ")


@pytest.mark.parametrize("what", ["metadata", "lookup"])
def test_rows_under_the_keys_of_others_are_found(what, root, tmp_path):
    first = read_version_manifest(root, 1)
    about = first.collections["image"]
    table = pq.read_table(object_path(root, about.shards[1].metadata))
    order = np.random.default_rng(0).permutation(table.num_rows)
    mixed = table.take(order).set_column(0, table.schema.field("key"), table["key"])
    write = {"metadata": write_parquet, "lookup": write_lookup}[what]
    write(tmp_path / "mixed", mixed)
    shards = [about.shards[0], about.shards[1].model_copy(update={what: store_object(root, tmp_path / "mixed")})]
    wrong = first.model_copy(update={"collections": {"image": about.model_copy(update={"shards": shards})}})
    with Index(root, wrong) as index:
        told = f"shard 1: in its {what.replace('lookup', 'look-up')} '0"
        assert audit_version(index)["image rows"].startswith(told)
        assert "stands under the key of another row" in audit_version(index)["image rows"]


def test_a_flipped_bit_is_found(root):
    path = object_path(root, read_version_manifest(root, 1).collections["caption"].shards[1].inverted_lists)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with Index.open(root) as index:
        assert "caption lists of shard 1" in audit_version(index)["objects"]


def test_a_compaction_must_answer_as_what_it_was_made_of(root):
    collections = scene()[0]
    fewer = {kind: Collection(c.ids[:-9], c.vectors[:-9], c.metadata[:-9]) for kind, c in collections.items()}
    update_index(CONFIG, fewer, root, {"model": "model"})
    judge = make_gate(GateConfig(), {}, {})
    compact_index(root, gate=judge)
    checks = read_version_manifest(root).gate["checks"]
    assert checks["image results"]["value"] == checks["caption results"]["value"] == 1

    sound = read_version_manifest(root)
    about = sound.collections["image"]
    wrong = faiss.read_index(str(object_path(root, about.trained_index)))
    stored = ShardVectors(object_path(root, about.shards[0].vectors))
    wrong.add_with_ids(np.roll(stored.vectors, 1, axis=0).astype(np.float32), np.array(stored.keys))
    with _writing(root / "lists") as writer:
        faiss.write_InvertedLists(wrong.invlists, writer)
    parts = [
        about.shards[0].model_copy(update={"inverted_lists": store_object(root, root / "lists")}),
        *about.shards[1:],
    ]
    mixed = sound.model_copy(
        update={"collections": sound.collections | {"image": about.model_copy(update={"shards": parts})}}
    )
    with Index(root, mixed) as candidate, Index.open(root) as served:
        verdict = judge(candidate, served)
    assert verdict["checks"]["image rows"]["passed"], "the keys are right, codes of other rows are under them"
    assert not verdict["checks"]["image results"]["passed"]
