"""Recalls and ranks against slow loops, with ties, any number of captions per image, any order."""

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
    """The rank by descending score, then by id, of the first row of the query's image; rows of that image do not
    count."""
    scores = [float(np.dot(query, row)) for row in gallery]
    best = max(s for s, o in zip(scores, owners, strict=True) if o == owner)
    return sum(s > best or (s == best and o < owner) for s, o in zip(scores, owners, strict=True))


def slow_metrics(images, ids, captions, owners):
    all_ranks = {
        "i2t": [slow_rank(v, name, captions, owners) for v, name in zip(images, ids, strict=True) if name in owners],
        "t2i": [slow_rank(v, name, images, ids) for v, name in zip(captions, owners, strict=True)],
    }
    result = {}
    for direction, ranks in all_ranks.items():
        for k in (1, 5, 10):
            result[f"{direction}_r{k}"] = 100 * sum(rank < k for rank in ranks) / len(ranks)
        result[f"{direction}_medr"] = float(int(np.median(ranks)) + 1)
        result[f"{direction}_meanr"] = sum(ranks) / len(ranks) + 1
    return result | {"rsum": sum(v for k, v in result.items() if k[-2:] in ("r1", "r5", "10"))}


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_retrieval_metrics_equal_a_slow_loop(seed, ties):
    data = scene(seed, ties=ties)
    assert retrieval_metrics(*data).flat() == pytest.approx(slow_metrics(*data))


def test_block_size_does_not_change_the_metrics(monkeypatch):
    data = scene(9)
    expected = retrieval_metrics(*data)
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 1)
    assert retrieval_metrics(*data) == expected


def test_order_of_rows_does_not_change_the_metrics_even_with_ties():
    images, ids, captions, owners = scene(5)
    i, c = (np.random.default_rng(1).permutation(n) for n in (len(ids), len(owners)))
    mixed = retrieval_metrics(images[i], [ids[k] for k in i], captions[c], [owners[k] for k in c])
    assert mixed.flat() == pytest.approx(retrieval_metrics(images, ids, captions, owners).flat())


def test_equal_rows_tie_although_their_products_differ_in_the_last_bits():
    rng = np.random.default_rng(0)
    images = np.repeat(rng.normal(size=(50, 512)), 2, axis=0)
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype("float16").astype("float32")
    noisy = images + 0.06 * rng.normal(size=images.shape).astype("float32")
    ids = [f"i{k:03d}" for k in range(100)]
    plain = retrieval_metrics(images, ids, noisy, ids)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(100)
        other = retrieval_metrics(images[order], [ids[k] for k in order], noisy, ids)
        assert other.flat() == pytest.approx(plain.flat())


def test_retrieval_metrics_of_known_cases():
    ids = [f"{k:03}" for k in range(100)]
    perfect = retrieval_metrics(np.eye(100), ids, np.eye(100).repeat(5, 0), np.repeat(ids, 5).tolist())
    assert perfect.rsum == 600
    assert perfect.i2t.meanr == perfect.t2i.medr == 1
    equal = retrieval_metrics(np.ones((100, 2)), ids, np.ones((500, 2)), np.repeat(ids, 5).tolist())
    assert (equal.t2i.r1, equal.t2i.r10, equal.t2i.medr) == (1, 10, 50)  # chance, neither 100 nor 0
    assert equal.i2t.r10 == 2  # 10 positions, 5 captions per image


def test_image_without_captions_is_not_a_query_but_stays_in_the_gallery():
    images = np.array([[1.0, 0], [0.9, 0.9]])
    metrics = retrieval_metrics(images, ["a", "b"], np.array([[0.7, 0.7]]), ["a"])
    assert metrics.i2t.r1 == 100
    assert metrics.t2i.r1 == 0


def test_rank_queries_equals_a_slow_loop():
    images, ids, captions, owners = scene(2)
    image_labels, caption_labels = encode_image_ids(images, ids, captions, owners)
    ranks = rank_queries(captions, caption_labels, images, image_labels)
    assert ranks.tolist() == [slow_rank(v, name, images, ids) for v, name in zip(captions, owners, strict=True)]


@pytest.mark.parametrize("block", [1, 1000, 64 * 2**20])
@pytest.mark.parametrize("seed", range(3))
def test_compute_ranks_equals_two_calls_of_rank_queries(monkeypatch, seed, block):
    images, ids, captions, owners = scene(seed, images=300)
    y, z = encode_image_ids(images, ids, captions, [o if o != ids[7] else ids[8] for o in owners])
    monkeypatch.setattr(metrics, "BLOCK_BYTES", block)
    i2t, t2i = compute_ranks(images, captions, y, z)
    is_query = np.isin(y, z)
    assert i2t[~is_query].tolist() == [-1]
    assert i2t[is_query].tolist() == rank_queries(images[is_query], y[is_query], captions, z).tolist()
    assert t2i.tolist() == rank_queries(captions, z, images, y).tolist()


def test_retrieval_metrics_use_constant_memory(monkeypatch):
    draw = np.random.default_rng(0)
    ids = [str(k) for k in range(2000)]
    images, captions = (draw.normal(size=(k, 8)).astype(np.float32) for k in (2000, 10_000))  # 80 MB of scores
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 2**20)
    tracemalloc.start()
    retrieval_metrics(images, ids, captions, ids * 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20


def test_folds_are_runs_of_the_split_and_every_metric_is_averaged():
    images, ids, captions, owners = scene(6, images=60)
    slow = []
    for start in range(0, 60, 12):
        part = ids[start : start + 12]
        rows = [k for k, o in enumerate(owners) if o in part]
        slow.append(slow_metrics(images[start : start + 12], part, captions[rows], [owners[k] for k in rows]))
    folds = [
        retrieval_metrics(images[i], [ids[k] for k in i], captions[c], [owners[k] for k in c])
        for i, c in make_folds(ids, owners, 5)
    ]
    expected = {name: sum(one[name] for one in slow) / 5 for name in slow[0]}
    assert average_metrics(folds).flat() == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 7, 61])
def test_unequal_folds_are_rejected(count):
    with pytest.raises(ValueError, match="60 images do not make"):
        make_folds([str(k) for k in range(60)], ["1"], count)


@pytest.mark.parametrize(
    ("images", "ids", "captions", "owners", "message"),
    [
        ([[1.0], [np.nan]], ["a", "b"], [[1.0]], ["a"], "'b'.*not finite"),
        ([[1.0], [1.0]], ["a", "b"], [[np.inf]], ["b"], "captions.*'b'"),
        ([[1.0], [1.0]], ["a", "a"], [[1.0]], ["a"], "'a' occurs 2 times"),
        ([[1.0]], ["a"], [[1.0]], ["z"], "'z'.*not among"),
        ([[1.0]], ["a", "b"], [[1.0]], ["a"], "1 vectors of images and 2 ids"),
        (np.ones((0, 1)), [], [[1.0]], ["a"], "0 vectors"),
    ],
)
def test_invalid_input_is_rejected(images, ids, captions, owners, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(np.array(images), ids, np.array(captions), owners)
