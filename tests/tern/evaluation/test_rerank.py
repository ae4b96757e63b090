"""Metrics of a reranked search against a slow loop that scores every candidate and sorts."""

import numpy as np
import pytest
import scipy.special

from data.alignment import Embeddings, compute_alignment_scores, encode_rows
from tern.config import EvaluationConfig
from tern.evaluation import Rerank, SplitVectors, choose_alignment_weight, evaluate_vectors, rerank_split
from tern.evaluation.metrics import compute_ranks, encode_image_ids

NUM_IMAGES, CAPTIONS_PER_IMAGE = 30, 3
IDS = [f"image {number:02}" for number in range(NUM_IMAGES)]
OWNERS = [name for name in IDS for _ in range(CAPTIONS_PER_IMAGE)]


def draw(count: int, seed: int, signal: np.ndarray) -> Embeddings:
    """Draw vectors and rows that share a direction with those of equal signal (n, 8)."""
    rng = np.random.default_rng(seed)
    vectors = signal + 1.2 * rng.normal(size=signal.shape)
    lengths = rng.integers(1, 5, count)
    rows = signal[:, None, :6] + 1.2 * rng.normal(size=(count, 4, 6))
    mask = np.arange(4) < lengths[:, None]
    weights = np.where(mask, 1 / lengths[:, None], 0).astype("f4")
    unit = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype("f4")
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
    return Embeddings(vectors, encode_rows(unit, weights, mask))


@pytest.fixture(scope="module")
def split() -> tuple[Embeddings, Embeddings]:
    signal = np.random.default_rng(9).normal(size=(NUM_IMAGES, 8))
    return draw(NUM_IMAGES, 0, signal), draw(len(OWNERS), 1, np.repeat(signal, CAPTIONS_PER_IMAGE, axis=0))


def rank_slowly(queries, query_names, gallery, gallery_names, num_candidates, weight) -> list[int]:
    ranks = []
    for row, name in enumerate(query_names):
        cosines = gallery.vectors @ queries.vectors[row]
        order = np.argsort(-cosines, kind="stable")
        first, rest = order[:num_candidates], order[num_candidates:]
        alignments = compute_alignment_scores(queries.rows.select([row]), gallery.rows.select(first))
        combined = (1 - weight) * cosines[first] + weight * alignments
        final = [*first[np.argsort(-combined, kind="stable")], *rest]
        ranks.append(next(position for position, item in enumerate(final) if gallery_names[item] == name))
    return ranks


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("num_candidates", [1, 7, 1000])
def test_reranked_ranks_equal_a_slow_loop(split, num_candidates, weight):
    images, captions = split
    i2t, t2i = rerank_split(images, IDS, captions, OWNERS, num_candidates)
    assert i2t.compute_ranks(weight).tolist() == rank_slowly(images, IDS, captions, OWNERS, num_candidates, weight)
    assert t2i.compute_ranks(weight).tolist() == rank_slowly(captions, OWNERS, images, IDS, num_candidates, weight)


def test_weight_of_zero_keeps_the_ranks_of_the_first_stage(split):
    images, captions = split
    labels = encode_image_ids(images.vectors, IDS, captions.vectors, OWNERS)
    expected = compute_ranks(images.vectors, captions.vectors, *labels)
    for direction, ranks in zip(rerank_split(images, IDS, captions, OWNERS, 5), expected, strict=True):
        np.testing.assert_array_equal(direction.compute_ranks(0.0), ranks)


def test_chosen_weight_is_zero_for_useless_rows_and_high_for_useless_vectors(split):
    images, captions = split
    noise = np.random.default_rng(5)

    def shuffle(part):
        return noise.permutation(len(part))

    useless_rows = Embeddings(images.vectors, images.rows.select(shuffle(images)))
    assert choose_alignment_weight(rerank_split(useless_rows, IDS, captions, OWNERS)) < 0.25
    useless_vectors = Embeddings(images.vectors[shuffle(images)], images.rows)
    assert choose_alignment_weight(rerank_split(useless_vectors, IDS, captions, OWNERS)) > 0.5


@pytest.mark.parametrize(("weight", "scale"), [(0.0, 5.0), (0.4, 28.0), (0.8, 80.0)])
def test_cross_entropy_equals_a_slow_loop(split, weight, scale):
    images, captions = split
    for direction in rerank_split(images, IDS, captions, OWNERS, 4):
        losses = []
        for row, label in enumerate(direction.query_labels):
            scores = (1 - weight) * direction.cosines[row] + weight * direction.alignments[row]
            is_right = direction.labels[row] == label
            if is_right.any():  # queries whose right items are no candidates cannot be helped by reranking
                log_shares = scipy.special.log_softmax(scale * scores.astype(float))
                losses.append(-scipy.special.logsumexp(log_shares[is_right]))
        assert 0 < len(losses) < len(direction.query_labels)
        assert direction.compute_cross_entropy(weight, scale) == pytest.approx(np.mean(losses), rel=1e-5)


def test_evaluation_with_rows_has_reranked_metrics_and_misses_unusable_vectors(split, tmp_path):
    images, captions = split
    texts = ["a"] * len(OWNERS)
    damaged = images.vectors.copy()
    damaged[4] = np.nan
    rerank = Rerank(images.rows, captions.rows, 0.3, 7)
    for vectors, left in ((images.vectors, NUM_IMAGES), (damaged, NUM_IMAGES - 1)):
        parts = SplitVectors(vectors, captions.vectors, IDS, OWNERS, texts, rerank)
        evaluation = evaluate_vectors(EvaluationConfig(), parts, "val", tmp_path)
        keep = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        kept = [row for row, name in enumerate(OWNERS) if name in {IDS[image] for image in keep}]
        names, owners = [IDS[image] for image in keep], [OWNERS[row] for row in kept]
        ranks = rank_slowly(captions.select(kept), owners, images.select(keep), names, 7, 0.3)
        assert evaluation.reranked.t2i.r1 == pytest.approx(100 * ranks.count(0) / len(OWNERS))
        assert len(keep) == left
    assert (
        evaluate_vectors(
            EvaluationConfig(), SplitVectors(images.vectors, captions.vectors, IDS, OWNERS, texts), "val", tmp_path
        ).reranked
        is None
    )
