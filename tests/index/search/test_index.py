"""Search against numpy over all vectors and against one big faiss index: shards, filters, threads change nothing."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata as wheels
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pytest

from index import collection as collection_module
from index.building.build import build_index
from index.collection import Collection
from index.config import IndexConfig
from index.ivf import faiss_io as shards_module
from index.ivf.faiss_io import check_single_faiss_wheel, choose_factory
from index.metadata import tables as metadata_module
from index.metadata.schema import compute_key
from index.search import index as search_module
from index.search.index import Index
from index.tuning.autotune import measure_candidates
from index.tuning.choice import TuningLimits
from index.tuning.nprobe import exact_search
from index.versions.folder import manifest_path, read_version_manifest
from index.versions.objects import ObjectRef, object_path
from tests.helpers.index_world import DIM, IMAGES, make, unit
from tests.reference.index import answer, slow


@pytest.fixture(scope="module")
def data() -> tuple[dict[str, Collection], dict[str, np.ndarray]]:
    return make()


@pytest.fixture(scope="module")
def root(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    build_index(IndexConfig(nlist=16), *data, folder, provenance={"model": "abc"})
    return folder


def template_of(root: Path, kind: str, version: int = 1) -> Path:
    """The file of centroids, found by the raw manifest."""
    about = json.loads(manifest_path(root, version).read_text())["collections"][kind]
    return object_path(root, ObjectRef(**about["trained_index"]))


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(
    ("shards", "factory"),
    [(1, "auto"), (4, "auto"), (16, "auto"), (4, "IVF{nlist},SQ8"), (4, "IVF{nlist},Flat"), (3, "IVF{nlist},RaBitQ")],
)
def test_shards_answer_as_one_big_index(shards, factory, filtered, data, tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "EXACT_FILTER_ROWS", 0)  # few rows would be searched exactly, not in the lists
    monkeypatch.setattr(search_module, "FEW_PART", 0)
    collections, queries = data
    build_index(IndexConfig(nlist=16, shards=shards, factory=factory), *data, tmp_path)
    kind, k, nprobe = "caption", 10, 5
    big = faiss.read_index(str(template_of(tmp_path, kind)))
    names = sorted(collections[kind].ids)
    key = {row["id"]: compute_key({**row, "kind": kind}) for row in collections[kind].metadata}
    name_of = {key[name]: name for name in names}
    big.add_with_ids(collections[kind].read(names), np.array(list(name_of)))
    keep = set(names[::3]) if filtered else None
    selector = faiss.IDSelectorBatch(np.array([key[n] for n in sorted(keep)])) if filtered else None
    scores, keys = big.search(queries[kind], k, params=faiss.SearchParametersIVF(nprobe=nprobe, sel=selector))
    with Index.open(tmp_path) as index:
        assert sum(entry["rows"] for entry in index.manifest["collections"][kind]["shards"]) == len(names)
        found, found_scores = answer(index.search(queries[kind], k, kind, nprobe=nprobe, allowed_ids=keep))
    assert found == [[name_of[key] for key in line] for line in keys.tolist()]
    assert np.array_equal(found_scores.astype(np.float32), scores)


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_all_lists_probed_is_exact_search(kind, data, root, monkeypatch):
    collections, queries = data
    expected = slow(collections[kind], queries[kind], 10)
    monkeypatch.setattr(collection_module, "BLOCK", 37)  # blocks must not show in the answer
    assert exact_search(collections[kind], queries[kind], 10)[1] == expected
    with Index.open(root) as index:
        hits = index.search(queries[kind], 10, kind, nprobe=16)
    assert [[hit.id for hit in line] for line in hits] == expected
    best = collections[kind].read(expected[0]) @ queries[kind][0]
    np.testing.assert_allclose([hit.score for hit in hits[0]], best, atol=1e-6)
    assert all(hit.metadata["text"] == f"text of {hit.id}" for hit in hits[0] if kind == "caption")
    assert all(hit.metadata["id"] == hit.id and hit.metadata["kind"] == kind for line in hits for hit in line)


@pytest.mark.parametrize(
    ("kept", "k"), [(0, 5), (1, 5), (36, 1), (36, 2), (12, 10), (12, 50), (60, 60), (IMAGES, IMAGES + 1)]
)
def test_the_best_k_come_wherever_k_exist(kept, k, data, root):
    collections, queries = data
    names = list(np.random.default_rng(3).permutation(collections["image"].ids)[:kept])
    with Index.open(root) as index:
        hits = index.search(queries["image"][:6], k, nprobe=1, allowed_ids={*names, "not in the index"})
    assert answer(hits)[0] == slow(collections["image"], queries["image"][:6], k, keep=set(names))


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_recall_in_the_manifest_is_what_a_slow_loop_counts(kind, data, root):
    collections, queries = data
    with Index.open(root) as index:
        about = index.manifest["collections"][kind]
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(queries[kind]))

        def recall(half: np.ndarray, nprobe: int) -> float:
            true = slow(collections[kind], half, 10)
            found = answer(index.search(half, 10, kind, nprobe=nprobe))[0]
            return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(true, found, strict=True)]))

        chosen_on, judged_on = queries[kind][order[::2]], queries[kind][order[1::2]]
        measured = about["recall"]
        assert 1 < about["search"]["nprobe"] < 16, "too easy: the data do not try the choice"
        assert recall(chosen_on, about["search"]["nprobe"] - 1) < 0.99 <= recall(chosen_on, about["search"]["nprobe"])
        assert measured["tuning_recall"] == pytest.approx(recall(chosen_on, about["search"]["nprobe"]))
        assert measured["recall"] == pytest.approx(recall(judged_on, about["search"]["nprobe"]))
        assert (measured["target_reached"], measured["num_test_queries"]) == (True, len(judged_on))


def test_codes_too_coarse_for_the_target_do_not_probe_every_list(data, tmp_path):
    build_index(IndexConfig(nlist=16, factory="IVF{nlist},RaBitQ"), *data, tmp_path)
    with Index.open(tmp_path) as index:
        about = index.manifest["collections"]["caption"]
    assert about["recall"]["recall"] < 0.9, "one bit a number cannot be this good: the data are too easy"
    assert (about["recall"]["target_reached"], about["search"]["nprobe"] < 16) == (False, True)
    build_index(IndexConfig(nlist=16, factory="IVF{nlist},RaBitQ", rescore=100), *data, tmp_path)
    with Index.open(tmp_path) as index:
        about = index.manifest["collections"]["caption"]
        assert (about["recall"]["target_reached"], about["search"]["rescore"]) == (True, 100), "whole vectors mend it"
        hit = index.search(data[1]["caption"][:1], 1, "caption")[0][0]
        whole = data[0]["caption"].read([hit.id])[0] @ data[1]["caption"][0]
        assert hit.score == pytest.approx(whole, abs=1e-6)
        assert about["recall"]["tuning_recall"] >= 0.99


def test_equal_vectors_both_count_as_found(tmp_path):
    collections, queries = make(images=60)
    twin = collections["caption"].vectors.copy()
    twin[:] = twin[:1]  # every caption says the same
    collections["caption"] = Collection(collections["caption"].ids, twin, collections["caption"].metadata)
    build_index(IndexConfig(nlist=1), collections, queries, tmp_path)
    with Index.open(tmp_path) as index:
        assert index.manifest["collections"]["caption"]["recall"]["recall"] == 1


def test_shards_may_stand_in_any_order(data, root):
    """A reader looks first where a key should be, and then everywhere."""
    sound = read_version_manifest(root)
    turned = {
        kind: about.model_copy(update={"shards": about.shards[::-1]}) for kind, about in sound.collections.items()
    }
    queries = data[1]["image"]
    with Index.open(root) as index, Index(root, sound.model_copy(update={"collections": turned})) as other:
        assert index.search(queries, 10) == other.search(queries, 10)
        assert index.search(queries, 5, allowed_ids=data[0]["image"].ids[:90]) == other.search(
            queries, 5, allowed_ids=data[0]["image"].ids[:90]
        )


def test_threads_share_an_index(data, root):
    _, queries = data
    with Index.open(root) as index, ThreadPoolExecutor(4) as pool:
        plain = {nprobe: answer(index.search(queries["image"], 10, nprobe=nprobe))[0] for nprobe in (1, 4, 16)}
        jobs = [(n, pool.submit(index.search, queries["image"], 10, nprobe=n)) for n in (1, 4, 16) * 10]
        assert all(answer(job.result())[0] == plain[nprobe] for nprobe, job in jobs)
    assert plain[1] != plain[16]


def test_rows_come_by_id(root, data):
    with Index.open(root) as index:
        names = list(data[0]["image"].ids)
        rows = index.get_metadata([*names[::-1], "'; DROP TABLE items; --"])
        assert sorted(rows) == names
        assert rows["0007.jpg"]["path"] == "images/0007.jpg"
        said = index.get_image_metadata("caption", "0007.jpg")
        assert [row["text"] for row in said] == ["text of 0007.jpg#0", "text of 0007.jpg#1"]
        assert index.get_image_metadata("caption", "' OR 1=1 --") == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (5, "IVF1,SQfp16"),
        (50_000, "IVF1,SQfp16"),
        (50_001, "IVF512,SQ8"),
        (99_999, "IVF1024,SQ8"),
        (100_000, "IVF1024,PQ128x4fs"),
        (1_000_000, "IVF2048,PQ128x4fs"),
    ],
)
def test_auto_factory(rows, expected):
    assert choose_factory("auto", None, rows, 512) == expected
    assert choose_factory("auto", None, rows, 510) == re.sub("PQ.*", "RaBitQfs", expected)


@pytest.mark.parametrize(
    ("rows", "dim", "code", "rescored"),
    [(120, 24, "SQfp16", 0), (250, 24, "SQ8", 0), (500, 24, "PQ6x4fs", 200), (500, 22, "RaBitQfs", 200)],
)
def test_every_step_of_auto_reaches_its_recall(rows, dim, code, rescored, tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "EXACT_ROWS", 200)
    monkeypatch.setattr(shards_module, "FAST_ROWS", 400)
    collections, queries = make(images=rows)
    c = collections["image"]
    build_index(
        IndexConfig(),
        {"image": Collection(c.ids, unit(c.vectors[:, :dim]), c.metadata)},
        {"image": unit(queries["image"][:, :dim])},
        tmp_path,
    )
    with Index.open(tmp_path) as index:
        about = index.manifest["collections"]["image"]
    assert about["factory"].split(",")[1] == code
    assert about["search"]["rescore"] == rescored
    assert about["recall"]["target_reached"]


def test_two_wheels_are_refused(root, monkeypatch):
    both = {"faiss-cpu", "faiss-gpu"}

    def installed(name: str) -> str:
        if name not in both:
            raise wheels.PackageNotFoundError(name)
        return name

    monkeypatch.setattr(wheels, "distribution", installed)
    vectors, asked = np.eye(16, dtype=np.float32), {"image": np.eye(16, dtype=np.float32)}
    for command in (lambda: Index.open(root), lambda: measure_candidates(vectors, asked, TuningLimits())):
        with pytest.raises(ImportError, match=r"faiss-cpu and faiss-gpu are both installed.*pip uninstall"):
            command()
    both.remove("faiss-gpu")
    check_single_faiss_wheel()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": np.ones((2, 9))}, r"shape \(2, 9\).*24 numbers"),
        ({"queries": np.full((1, DIM), np.nan)}, r"query, row 0 has length nan"),
        ({"kind": "video"}, r"no 'video' collection; it has caption, image"),
        ({"k": 0}, "k is 0"),
        ({"nprobe": -1}, "nprobe is -1"),
    ],
)
def test_bad_question(arguments, message, data, root):
    with Index.open(root) as index, pytest.raises(ValueError, match=message):
        index.search(**{"queries": data[1]["image"], "k": 3, **arguments})


def test_keys_that_collide_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata_module, "compute_key", lambda row: len(row["id"]))
    with pytest.raises(ValueError, match=r"image '0000.jpg' and image '0001.jpg' share the 64-bit key"):
        build_index(IndexConfig(), *make(images=60), tmp_path)
    keys = sorted(compute_key({"kind": "image", "id": f"{i}"}) for i in range(1000))
    assert all(0 <= a < b < 2**63 for a, b in pairwise(keys))
