"""Recall and ranks against slow loops, with ties, any number of captions, any order."""

import tracemalloc

import numpy as np
import pytest

from tern.evaluation import metrics
from tern.evaluation.metrics import (
    average_metrics,
    compute_ranks,
    encode_image_ids,
    make_folds,
    rank_queries,
    retrieval_metrics,
)
from tests.helpers.tern_world import scene


def slow_rank(query, owner, gallery, owners):
    """A sort by falling score, then by id: the place of the first row of the right image, its twins not counted."""
    scores = [float(np.dot(query, row)) for row in gallery]
    best = max(s for s, o in zip(scores, owners, strict=True) if o == owner)
    return sum(s > best or (s == best and o < owner) for s, o in zip(scores, owners, strict=True))


def slow_metrics(images, ids, captions, owners):
    found = {
        "i2t": [slow_rank(v, name, captions, owners) for v, name in zip(images, ids, strict=True) if name in owners],
        "t2i": [slow_rank(v, name, images, ids) for v, name in zip(captions, owners, strict=True)],
    }
    result = {}
    for way, rank in found.items():
        for cut in (1, 5, 10):
            result[f"{way}_r{cut}"] = 100 * sum(r < cut for r in rank) / len(rank)
        result[f"{way}_medr"] = float(int(np.median(rank)) + 1)
        result[f"{way}_meanr"] = sum(rank) / len(rank) + 1
    return result | {"rsum": sum(v for k, v in result.items() if k[-2:] in ("r1", "r5", "10"))}


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_equals_a_slow_loop(seed, ties):
    data = scene(seed, ties=ties)
    assert retrieval_metrics(*data) == pytest.approx(slow_metrics(*data))


def test_small_blocks_give_the_same(monkeypatch):
    data = scene(9)
    whole = retrieval_metrics(*data)
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 1)
    assert retrieval_metrics(*data) == whole


def test_the_order_of_the_rows_does_not_matter_even_with_ties():
    images, ids, captions, owners = scene(5)
    i, c = (np.random.default_rng(1).permutation(n) for n in (len(ids), len(owners)))
    mixed = retrieval_metrics(images[i], [ids[k] for k in i], captions[c], [owners[k] for k in c])
    assert mixed == pytest.approx(retrieval_metrics(images, ids, captions, owners))


def test_equal_rows_are_ties_whatever_order_a_product_adds_in():
    rng = np.random.default_rng(0)
    images = np.repeat(rng.normal(size=(50, 512)), 2, axis=0)
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype("float16").astype("float32")
    noisy = images + 0.06 * rng.normal(size=images.shape).astype("float32")
    ids = [f"i{k:03d}" for k in range(100)]
    plain = retrieval_metrics(images, ids, noisy, ids)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(100)
        other = retrieval_metrics(images[order], [ids[k] for k in order], noisy, ids)
        assert other == pytest.approx(plain)


def test_known_answers():
    ids = [f"{k:03}" for k in range(100)]
    perfect = retrieval_metrics(np.eye(100), ids, np.eye(100).repeat(5, 0), np.repeat(ids, 5).tolist())
    assert perfect["rsum"] == 600
    assert perfect["i2t_meanr"] == perfect["t2i_medr"] == 1
    same = retrieval_metrics(np.ones((100, 2)), ids, np.ones((500, 2)), np.repeat(ids, 5).tolist())
    assert (same["t2i_r1"], same["t2i_r10"], same["t2i_medr"]) == (1, 10, 50)  # chance, neither 100 nor 0
    assert same["i2t_r10"] == 2  # 10 places, 5 captions an image


def test_an_image_without_captions_is_no_query_but_still_a_rival():
    images = np.array([[1.0, 0], [0.9, 0.9]])
    found = retrieval_metrics(images, ["a", "b"], np.array([[0.7, 0.7]]), ["a"])
    assert found["i2t_r1"] == 100
    assert found["t2i_r1"] == 0


def test_ranks_a_query():
    images, ids, captions, owners = scene(2)
    image_labels, caption_labels = encode_image_ids(images, ids, captions, owners)
    found = rank_queries(captions, caption_labels, images, image_labels)
    assert found.tolist() == [slow_rank(v, name, images, ids) for v, name in zip(captions, owners, strict=True)]


@pytest.mark.parametrize("block", [1, 1000, 64 * 2**20])
@pytest.mark.parametrize("seed", range(3))
def test_both_directions_from_one_product_are_those_of_two(monkeypatch, seed, block):
    images, ids, captions, owners = scene(seed, images=300)
    y, z = encode_image_ids(images, ids, captions, [o if o != ids[7] else ids[8] for o in owners])
    monkeypatch.setattr(metrics, "BLOCK_BYTES", block)
    i2t, t2i = compute_ranks(images, captions, y, z)
    asked = np.isin(y, z)
    assert i2t[~asked].tolist() == [-1]
    assert i2t[asked].tolist() == rank_queries(images[asked], y[asked], captions, z).tolist()
    assert t2i.tolist() == rank_queries(captions, z, images, y).tolist()


def test_memory_does_not_grow_with_images_times_captions(monkeypatch):
    draw = np.random.default_rng(0)
    ids = [str(k) for k in range(2000)]
    images, captions = (draw.normal(size=(k, 8)).astype(np.float32) for k in (2000, 10_000))  # 80 MB of scores
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 2**20)
    tracemalloc.start()
    retrieval_metrics(images, ids, captions, ids * 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20


def test_folds_are_runs_of_the_order_given_and_each_metric_is_averaged():
    images, ids, captions, owners = scene(6, images=60)
    slow = []
    for start in range(0, 60, 12):
        part = ids[start : start + 12]
        own = [k for k, o in enumerate(owners) if o in part]
        slow.append(slow_metrics(images[start : start + 12], part, captions[own], [owners[k] for k in own]))
    found = [
        retrieval_metrics(images[i], [ids[k] for k in i], captions[c], [owners[k] for k in c])
        for i, c in make_folds(ids, owners, 5)
    ]
    expected = {name: sum(one[name] for one in slow) / 5 for name in slow[0]}
    assert average_metrics(found) == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 7, 61])
def test_unequal_folds_are_refused(count):
    with pytest.raises(ValueError, match="60 images do not make"):
        make_folds([str(k) for k in range(60)], ["1"], count)


@pytest.mark.parametrize(
    ("images", "ids", "captions", "owners", "says"),
    [
        ([[1.0], [np.nan]], ["a", "b"], [[1.0]], ["a"], "'b'.*not finite"),
        ([[1.0], [1.0]], ["a", "b"], [[np.inf]], ["b"], "captions.*'b'"),
        ([[1.0], [1.0]], ["a", "a"], [[1.0]], ["a"], "'a' stands 2 times"),
        ([[1.0]], ["a"], [[1.0]], ["z"], "'z'.*not among"),
        ([[1.0]], ["a", "b"], [[1.0]], ["a"], "1 vectors of images and 2 ids"),
        (np.ones((0, 1)), [], [[1.0]], ["a"], "0 vectors"),
    ],
)
def test_bad_input(images, ids, captions, owners, says):
    with pytest.raises(ValueError, match=says):
        retrieval_metrics(np.array(images), ids, np.array(captions), owners)
