"""Vectors that are not finite or of length 0: invalid records whose queries are missed, and everything else goes on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.datasets import Caption, Dataset, Image
from data.manifest import Item, open_or_create_store
from data.store import Store, store_update, write_shard
from index.config import IndexConfig
from index.search import Index
from pipeline.pages.misses import find_misses
from pipeline.stages.embed import find_vector_problem, list_invalid_vectors
from pipeline.stages.evaluate import evaluate_splits
from pipeline.stages.index import IndexSource, publish_full_index
from pipeline.stages.results import VectorStores
from pipeline.workspace import Workspace
from tern.config import EvaluationConfig
from tern.evaluation import Evaluation, measure_usable, read_evaluation

IMAGES = [f"im{i:02d}.jpg" for i in range(24)]
CAPTIONS = [f"{name}#{number}" for name in IMAGES for number in range(2)]
BAD_IMAGES, BAD_CAPTIONS = {"im20.jpg": np.nan, "im03.jpg": 0.0}, {"im21.jpg#1": np.inf, "im22.jpg#0": 0.0}


def make_dataset(folder: Path) -> Dataset:
    splits = ["test" if i >= 18 else "val" if i >= 14 else "train" for i in range(24)]
    images = tuple(Image(name, folder / name, split) for name, split in zip(IMAGES, splits, strict=True))
    return Dataset("bad", folder, images, tuple(Caption(c, c[:8], f"text {c}") for c in CAPTIONS))


def make_vectors(names: list[str], bad: dict[str, float]) -> dict[str, np.ndarray]:
    """Unit vectors near to those of the same image, and some that cannot be used."""
    vectors = {}
    for name in names:
        noise = np.random.default_rng([ord(c) for c in name]).standard_normal(8)
        vector = np.random.default_rng([ord(c) for c in name[:8]]).standard_normal(8) + noise
        vectors[name] = np.full(8, bad[name]) if name in bad else vector / np.linalg.norm(vector)
    return vectors


def write_store(root: Path, kind: str, vectors: dict[str, np.ndarray]) -> Path:
    folder = open_or_create_store(root, "vectors", {"model": "none", "modality": kind})
    with store_update(folder, [Item(name, "0" * 64) for name in vectors], 1000) as plans:
        for plan in plans:
            rows = (vectors[item.id] for item in plan.items)
            write_shard(folder, plan, (find_vector_problem(row) or {"features": row[None]} for row in rows))
    return folder


@pytest.fixture
def stores(tmp_path: Path) -> VectorStores:
    images = write_store(tmp_path / "vectors", "image", make_vectors(IMAGES, BAD_IMAGES))
    return VectorStores(images, write_store(tmp_path / "vectors", "caption", make_vectors(CAPTIONS, BAD_CAPTIONS)))


def loop_recalls(image_ids: list[str], caption_ids: list[str]) -> dict[str, float]:
    """Recalls by a loop over all queries of the split; one without a vector is missed at every rank."""
    images, captions = make_vectors(IMAGES, BAD_IMAGES), make_vectors(CAPTIONS, BAD_CAPTIONS)
    usable_images = [name for name in image_ids if name not in BAD_IMAGES]
    usable_captions = [c for c in caption_ids if c not in BAD_CAPTIONS and c[:8] not in BAD_IMAGES]

    def is_hit(query: np.ndarray, gallery: dict[str, np.ndarray], relevant: set[str], k: int) -> bool:
        order = sorted(gallery, key=lambda name: -float(query @ gallery[name]))
        return bool(relevant & set(order[:k]))

    result = {}
    for k in (1, 5, 10):
        hits = [
            c in usable_captions and is_hit(captions[c], {i: images[i] for i in usable_images}, {c[:8]}, k)
            for c in caption_ids
        ]
        result[f"t2i_r{k}"] = 100 * sum(hits) / len(hits)
        hits = [
            i in usable_images and is_hit(images[i], {c: captions[c] for c in usable_captions}, {f"{i}#0", f"{i}#1"}, k)
            for i in image_ids
        ]
        result[f"i2t_r{k}"] = 100 * sum(hits) / len(hits)
    return result


@pytest.mark.parametrize("config", [EvaluationConfig(), EvaluationConfig(folds=2, ndcg=True)])
def test_queries_without_a_vector_are_missed(tmp_path: Path, stores: VectorStores, config: EvaluationConfig) -> None:
    dataset, workspace = make_dataset(tmp_path), Workspace(tmp_path / "ws")
    evaluation: Evaluation = read_evaluation(evaluate_splits(stores, dataset, workspace, config=config))
    test = evaluation.splits["test"]
    assert (test.images, test.captions) == (6, 12)
    expected = loop_recalls(IMAGES[18:], CAPTIONS[36:])
    assert {key: value for key, value in test.metrics.flat().items() if key in expected} == pytest.approx(expected)
    assert test.metrics.t2i.r10 == pytest.approx(100 * 8 / 12), "2 captions of im20 and 2 of their own"
    if config.folds:
        parts = [loop_recalls(IMAGES[a : a + 3], CAPTIONS[2 * a : 2 * a + 6]) for a in (18, 21)]
        means = {f"fold_{key}": (parts[0][key] + parts[1][key]) / 2 for key in expected}
        assert {key: value for key, value in test.flat().items() if key in means} == pytest.approx(means)
        assert 0 < test.metrics.t2i.ndcg["rougeL"] <= 8 / 12


def test_other_stages_go_on_without_the_invalid_vectors(tmp_path: Path, stores: VectorStores) -> None:
    dataset, workspace = make_dataset(tmp_path), Workspace(tmp_path / "ws")
    records = {record.name: record.reason for record in list_invalid_vectors(stores, dataset)}
    assert set(records) == {*BAD_IMAGES, *BAD_CAPTIONS}
    assert "not finite" in records["im20.jpg"]
    assert "not finite" in records["im21.jpg#1"]
    assert "has length 0, not 1" in records["im03.jpg"]
    assert "has length 0, not 1" in records["im22.jpg#0"]
    publish_full_index(IndexSource(stores, dataset), IndexConfig(), workspace)
    with Index.open(workspace.index) as index:
        counts = {kind: collection.counts.live for kind, collection in index.manifest.collections.items()}
        query = Store(stores.images).read("features", ["im21.jpg"]).astype("float32")
        assert index.search(query, 1, "image")[0][0].id == "im21.jpg"
    assert counts == {"image": 22, "caption": 46}
    report = find_misses(stores, dataset, "test")
    assert report.num_queries == {"t2i": 12, "i2t": 6}
    expected = loop_recalls(IMAGES[18:], CAPTIONS[36:])
    assert report.num_missed["t2i"] == round(12 - 12 * expected["t2i_r1"] / 100)
    assert report.num_missed["i2t"] == round(6 - 6 * expected["i2t_r1"] / 100)


@pytest.mark.parametrize(
    "spoil", [lambda a: a * np.nan, lambda a: a * 0, lambda a: a.astype(np.float32) * np.float32(1e38) * 1e38]
)
def test_metrics_of_vectors_that_are_all_unusable_are_those_of_missed_queries(
    spoil: Callable[[np.ndarray], np.ndarray],
) -> None:
    with np.errstate(all="ignore"):
        images = spoil(np.eye(4))
    metrics = measure_usable(images, list("abcd"), np.eye(4), list("abcd"))
    assert metrics.rsum == 0
    assert (metrics.t2i.meanr, metrics.i2t.medr) == (4, 4)
