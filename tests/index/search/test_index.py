"""Search compared with numpy over all vectors and with one large FAISS index, with shards, filters and threads."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata as wheels
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pytest

from index import collection as collection_module
from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.ivf import faiss_io
from index.ivf.faiss_io import check_single_faiss_wheel, choose_factory
from index.metadata import tables
from index.metadata.schema import Row, compute_key
from index.search import index as search_module
from index.search.index import Index
from index.tuning.autotune import measure_candidates
from index.tuning.choice import TuningLimits
from index.tuning.nprobe import exact_search
from index.versions.folder import manifest_path, read_version_manifest
from index.versions.objects import ObjectRef, object_path
from tests.helpers.index_world import DIM, IMAGES, make, unit
from tests.reference.index import exact_ids, split_hits


@pytest.fixture(scope="module")
def data() -> tuple[dict[str, Collection], dict[str, np.ndarray]]:
    return make()


@pytest.fixture(scope="module")
def root(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    build_index(IndexConfig(nlist=16), IndexInputs(*data, {"model": "abc"}), folder)
    return folder


def trained_index_path(root: Path, kind: str, version: int = 1) -> Path:
    """Return the file of the trained index, found in the raw manifest."""
    collection_manifest = json.loads(manifest_path(root, version).read_text())["collections"][kind]
    return object_path(root, ObjectRef(**collection_manifest["trained_index"]))


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(
    ("shards", "factory"),
    [(1, "auto"), (4, "auto"), (16, "auto"), (4, "IVF{nlist},SQ8"), (4, "IVF{nlist},Flat"), (3, "IVF{nlist},RaBitQ")],
)
def test_shards_equal_one_large_index(shards, factory, filtered, data, tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "EXACT_FILTER_ROWS", 0)  # else few rows are searched exactly
    monkeypatch.setattr(search_module, "EXACT_FILTER_FRACTION", 0)
    collections, queries = data
    build_index(IndexConfig(nlist=16, shards=shards, factory=factory), IndexInputs(*data), tmp_path)
    kind, k, nprobe = "caption", 10, 5
    large = faiss.read_index(str(trained_index_path(tmp_path, kind)))
    names = sorted(collections[kind].ids)
    key_by_id = {row.id: compute_key(row) for row in collections[kind].metadata}
    id_by_key = {key_by_id[name]: name for name in names}
    large.add_with_ids(collections[kind].read(names), np.array(list(id_by_key)))
    allowed_ids = set(names[::3]) if filtered else None
    selector = faiss.IDSelectorBatch(np.array([key_by_id[n] for n in sorted(allowed_ids)])) if filtered else None
    scores, keys = large.search(queries[kind], k, params=faiss.SearchParametersIVF(nprobe=nprobe, sel=selector))
    with Index.open(tmp_path) as index:
        assert sum(shard.rows for shard in index.manifest.collections[kind].shards) == len(names)
        ids, hit_scores = split_hits(index.search(queries[kind], k, kind, nprobe=nprobe, allowed_ids=allowed_ids))
    assert ids == [[id_by_key[key] for key in line] for line in keys.tolist()]
    assert np.array_equal(hit_scores.astype(np.float32), scores)


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_search_of_all_lists_is_exact(kind, data, root, monkeypatch):
    collections, queries = data
    expected = exact_ids(collections[kind], queries[kind], 10)
    monkeypatch.setattr(collection_module, "BLOCK", 37)  # blocks do not change the result
    assert exact_search(collections[kind], queries[kind], 10)[1] == expected
    with Index.open(root) as index:
        hits = index.search(queries[kind], 10, kind, nprobe=16)
    assert [[hit.id for hit in line] for line in hits] == expected
    best = collections[kind].read(expected[0]) @ queries[kind][0]
    np.testing.assert_allclose([hit.score for hit in hits[0]], best, atol=1e-6)
    assert all(hit.metadata.text == f"text of {hit.id}" for hit in hits[0] if kind == "caption")
    assert all(hit.metadata.id == hit.id and hit.metadata.kind == kind for line in hits for hit in line)


@pytest.mark.parametrize(
    ("num_allowed", "k"), [(0, 5), (1, 5), (36, 1), (36, 2), (12, 10), (12, 50), (60, 60), (IMAGES, IMAGES + 1)]
)
def test_search_returns_k_hits_wherever_k_exist(num_allowed, k, data, root):
    collections, queries = data
    names = list(np.random.default_rng(3).permutation(collections["image"].ids)[:num_allowed])
    with Index.open(root) as index:
        hits = index.search(queries["image"][:6], k, nprobe=1, allowed_ids={*names, "not in the index"})
    assert split_hits(hits)[0] == exact_ids(collections["image"], queries["image"][:6], k, set(names))


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_recall_in_manifest_equals_reference(kind, data, root):
    collections, queries = data
    with Index.open(root) as index:
        collection_manifest = index.manifest.collections[kind]
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(queries[kind]))

        def recall(half: np.ndarray, nprobe: int) -> float:
            exact = exact_ids(collections[kind], half, 10)
            ids = split_hits(index.search(half, 10, kind, nprobe=nprobe))[0]
            return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, ids, strict=True)]))

        tuning_queries, test_queries = queries[kind][order[::2]], queries[kind][order[1::2]]
        nprobe, report = collection_manifest.search.nprobe, collection_manifest.recall
        assert 1 < nprobe < 16, "too easy: the data do not test the choice"
        assert recall(tuning_queries, nprobe - 1) < 0.99 <= recall(tuning_queries, nprobe)
        assert report.tuning_recall == pytest.approx(recall(tuning_queries, nprobe))
        assert report.recall == pytest.approx(recall(test_queries, nprobe))
        assert (report.target_reached, report.num_test_queries) == (True, len(test_queries))


def test_codes_too_coarse_for_target_do_not_probe_every_list(data, tmp_path):
    build_index(IndexConfig(nlist=16, factory="IVF{nlist},RaBitQ"), IndexInputs(*data), tmp_path)
    with Index.open(tmp_path) as index:
        collection_manifest = index.manifest.collections["caption"]
    assert collection_manifest.recall.recall < 0.9, "too easy: one bit per number cannot be this good"
    assert (collection_manifest.recall.target_reached, collection_manifest.search.nprobe < 16) == (False, True)
    build_index(IndexConfig(nlist=16, factory="IVF{nlist},RaBitQ", rescore=100), IndexInputs(*data), tmp_path)
    with Index.open(tmp_path) as index:
        collection_manifest = index.manifest.collections["caption"]
        assert (collection_manifest.recall.target_reached, collection_manifest.search.rescore) == (True, 100), (
            "rescoring reaches the target"
        )
        hit = index.search(data[1]["caption"][:1], 1, "caption")[0][0]
        exact_score = data[0]["caption"].read([hit.id])[0] @ data[1]["caption"][0]
        assert hit.score == pytest.approx(exact_score, abs=1e-6)
        assert collection_manifest.recall.tuning_recall >= 0.99


def test_equal_vectors_both_count_as_found(tmp_path):
    collections, queries = make(images=60)
    vectors = collections["caption"].vectors.copy()
    vectors[:] = vectors[:1]
    collections["caption"] = replace(collections["caption"], vectors=vectors)
    build_index(IndexConfig(nlist=1), IndexInputs(collections, queries), tmp_path)
    with Index.open(tmp_path) as index:
        assert index.manifest.collections["caption"].recall.recall == 1


def test_order_of_shards_does_not_matter(data, root):
    """A key is looked for in the shard that its number selects, and then in every shard."""
    manifest = read_version_manifest(root)
    reversed_shards = {
        kind: collection_manifest.model_copy(update={"shards": collection_manifest.shards[::-1]})
        for kind, collection_manifest in manifest.collections.items()
    }
    queries, allowed_ids = data[1]["image"], data[0]["image"].ids[:90]
    other_manifest = manifest.model_copy(update={"collections": reversed_shards})
    with Index.open(root) as index, Index(root, other_manifest) as other:
        assert index.search(queries, 10) == other.search(queries, 10)
        assert index.search(queries, 5, allowed_ids=allowed_ids) == other.search(queries, 5, allowed_ids=allowed_ids)


def test_threads_share_an_index(data, root):
    _, queries = data
    with Index.open(root) as index, ThreadPoolExecutor(4) as pool:
        expected = {nprobe: split_hits(index.search(queries["image"], 10, nprobe=nprobe))[0] for nprobe in (1, 4, 16)}
        jobs = [(n, pool.submit(index.search, queries["image"], 10, nprobe=n)) for n in (1, 4, 16) * 10]
        assert all(split_hits(job.result())[0] == expected[nprobe] for nprobe, job in jobs)
    assert expected[1] != expected[16]


def test_get_metadata_returns_rows_by_id(root, data):
    with Index.open(root) as index:
        ids = list(data[0]["image"].ids)
        rows = index.get_metadata([*ids[::-1], "'; DROP TABLE items; --"])
        assert sorted(rows) == ids
        assert rows["0007.jpg"].path == "images/0007.jpg"
        captions = index.get_image_metadata("caption", "0007.jpg")
        assert [row.text for row in captions] == ["text of 0007.jpg#0", "text of 0007.jpg#1"]
        assert index.get_image_metadata("caption", "' OR 1=1 --") == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (5, "IVF1,SQfp16"),
        (5_000, "IVF1,SQfp16"),
        (5_001, "IVF1,PQ256x4fs"),
        (50_000, "IVF1,PQ256x4fs"),
        (50_001, "IVF128,PQ128x4fs"),
        (155_000, "IVF256,PQ128x4fs"),
        (1_000_000, "IVF512,PQ128x4fs"),
        (10_000_000, "IVF4096,PQ128x4fs"),
    ],
)
def test_auto_factory_depends_on_rows_and_dimension(rows, expected):
    assert choose_factory("auto", None, rows, 512) == expected
    assert choose_factory("auto", None, rows, 510) == expected.replace("PQ256", "PQ255").replace(
        "PQ128x4fs", "RaBitQfs"
    )
    assert choose_factory("auto", None, rows, 511) == re.sub("PQ.*", "RaBitQfs", expected)


@pytest.mark.parametrize(
    ("rows", "dim", "code", "rescore"),
    [(120, 24, "SQfp16", 0), (250, 24, "PQ12x4fs", 50), (500, 24, "PQ6x4fs", 100), (500, 22, "RaBitQfs", 200)],
)
def test_every_code_of_auto_factory_reaches_target_recall(rows, dim, code, rescore, tmp_path, monkeypatch):
    monkeypatch.setattr(faiss_io, "EXACT_ROWS", 200)
    monkeypatch.setattr(faiss_io, "ONE_LIST_ROWS", 400)
    collections, queries = make(images=rows)
    images = collections["image"]
    images, queries = replace(images, vectors=unit(images.vectors[:, :dim])), unit(queries["image"][:, :dim])
    build_index(IndexConfig(), IndexInputs({"image": images}, {"image": queries}), tmp_path)
    with Index.open(tmp_path) as index:
        collection_manifest = index.manifest.collections["image"]
        assert collection_manifest.factory.split(",")[1] == code
        assert collection_manifest.search.rescore == rescore
        assert collection_manifest.recall.target_reached
        tuning_queries = queries[np.random.Generator(np.random.PCG64(0)).permutation(len(queries))[::2]]
        expected = exact_ids(images, tuning_queries, 10)

        def measure_recall(depth: int) -> float:
            hits = index.search(tuning_queries, 10, nprobe=collection_manifest.nlist, rescore=depth)
            ids = split_hits(hits)[0]
            return np.mean([len({*one} & {*other}) / 10 for one, other in zip(ids, expected, strict=True)])

        assert measure_recall(rescore) >= 0.995, "half of the misses that a target of 0.99 allows"
        assert rescore <= 50 or measure_recall(rescore // 2) < 0.995, "the smallest depth"
        alone = [index.search(query[None], 10)[0] for query in queries]
        assert index.search(queries, 10) == alone, "the same bits alone and in a batch"


def test_two_faiss_wheels_are_rejected(root, monkeypatch):
    installed = {"faiss-cpu", "faiss-gpu"}

    def distribution(name: str) -> str:
        if name not in installed:
            raise wheels.PackageNotFoundError(name)
        return name

    monkeypatch.setattr(wheels, "distribution", distribution)
    vectors, queries = np.eye(16, dtype=np.float32), {"image": np.eye(16, dtype=np.float32)}
    for call in (lambda: Index.open(root), lambda: measure_candidates(vectors, queries, TuningLimits())):
        with pytest.raises(ImportError, match=r"faiss-cpu and faiss-gpu are both installed.*pip uninstall"):
            call()
    installed.remove("faiss-gpu")
    check_single_faiss_wheel()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": np.ones((2, 9))}, r"shape \(2, 9\).*24 numbers"),
        ({"queries": np.full((1, DIM), np.nan)}, r"query in row 0 has length nan"),
        ({"kind": "video"}, r"no 'video' collection; it has caption, image"),
        ({"k": 0}, "k is 0"),
        ({"nprobe": -1}, "nprobe is -1"),
    ],
)
def test_search_rejects_invalid_arguments(arguments, message, data, root):
    with Index.open(root) as index, pytest.raises(ValueError, match=message):
        index.search(**{"queries": data[1]["image"], "k": 3, **arguments})


def test_build_rejects_equal_keys(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "compute_key", lambda row: len(row.id))
    with pytest.raises(ValueError, match=r"image '0000.jpg' and image '0001.jpg' share the 64-bit key"):
        build_index(IndexConfig(), IndexInputs(*make(images=60)), tmp_path)
    keys = sorted(compute_key(Row("image", f"{i}")) for i in range(1000))
    assert all(0 <= a < b < 2**63 for a, b in pairwise(keys))
