"""Fit the chance that a hit is right to queries whose right hits are known, and judge it on other queries.

Shapes: q queries, k hits, n random directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.alignment import RowVectors, concatenate_rows, encode_vectors
from data.io import sha256_text
from index.collection import Collection, QueryLabels
from index.config import QuerySource
from index.search.probabilities import apply_map, map_scores, share_chance
from index.search.rerank import Reranking
from index.tuning.isotonic import fit_isotonic
from index.tuning.nprobe import exact_search, find_nearest, sample_rows
from index.versions.calibration import MonotoneMap, Reliability, ReliabilityBin, ScoreCalibration

FIT_VERSION = 1  # raise it when the same queries give another calibration
DEPTH = 10  # hits of a query that are fitted
SHARPNESS = 15.0  # of the softmax over scores; the order of probabilities depends on it, not their size
NUM_SPLITS = 5  # ways to divide the queries into halves, over which the judgment of a hit is averaged
NUM_DIRECTIONS = 500
MAX_QUERIES = 1_000
MIN_QUERIES = 20
MIN_HALF = 5  # queries
MAX_LOST = 0.05  # share of the queries with a right hit that may lose it below `min_probability`
NUM_BINS = 10


@dataclass(frozen=True)
class LabeledHits:
    """First hits of queries, and which are right."""

    scores: np.ndarray
    """(q, k) highest first"""
    is_right: np.ndarray
    """(q, k) bool"""
    halves: np.ndarray
    """(q, s) 0 or 1: the half that a query is in, for each of s ways to divide them"""

    def select(self, rows: np.ndarray) -> "LabeledHits":
        """Return the hits of some queries."""
        return LabeledHits(self.scores[rows], self.is_right[rows], self.halves[rows])


@dataclass(frozen=True)
class _FittedMaps:
    answered: MonotoneMap
    chance: MonotoneMap

    def compute(self, scores: np.ndarray) -> np.ndarray:
        return map_scores(scores, self.answered, self.chance, SHARPNESS, DEPTH)


def calibrate_scores(
    collection: Collection,
    queries: np.ndarray,
    labels: QueryLabels,
    source: QuerySource,
    seed: int,
    reranking: Reranking | None = None,
) -> ScoreCalibration | None:
    """Calibrate the scores of a collection with queries whose relevant items are known.

    These are the scores that a search returns: combined scores if the hits of the queries are reranked.

    Args:
        collection: What is searched.
        queries: (q, d) unit vectors.
        labels: Their relevant items.
        source: Where the queries come from.
        seed: Random seed of the sample of queries and of the random directions.
        reranking: What reranks the hits of the queries; None: they are not reranked.

    Returns:
        The calibration; None if there are too few queries for it.
    """
    rows = sample_rows(len(queries), MAX_QUERIES, seed)
    halves = np.array([choose_halves(labels.get_group(row)) for row in rows.tolist()], np.int64)
    if len(rows) < MIN_QUERIES or min(halves.sum(axis=0).min(), (1 - halves).sum(axis=0).min()) < MIN_HALF:
        return None
    vectors = np.concatenate([queries[rows], make_random_directions(queries[rows], NUM_DIRECTIONS, seed)])
    if reranking is None:
        scores, ids = exact_search(collection, vectors, DEPTH)
    else:
        query_rows = reranking.query_rows.select(rows)
        query_rows = concatenate_rows([query_rows, make_random_rows(query_rows, NUM_DIRECTIONS, seed)])
        scores, ids = _search_reranked(collection, vectors, replace(reranking, query_rows=query_rows))
    hits = _label_hits(scores[: len(rows)], ids, labels, rows, halves)
    found = fit_calibration(hits, scores[len(rows) :, 0], source, len(collection.ids))
    return found.model_copy(update={"is_combined": reranking is not None})


def _search_reranked(
    collection: Collection, queries: np.ndarray, reranking: Reranking
) -> tuple[np.ndarray, list[list[str]]]:
    """Find the best `DEPTH` items for (q, d) queries as `exact_search` does, after reranking."""

    def read_rows(positions: np.ndarray) -> RowVectors:
        return collection.read_rows([collection.sorted_ids[i] for i in positions.tolist()])

    scores, positions = find_nearest(collection, queries, max(DEPTH, reranking.depth))
    scores, positions = reranking.apply(scores, positions, read_rows)
    return scores[:, :DEPTH], [[collection.sorted_ids[i] for i in line] for line in positions[:, :DEPTH].tolist()]


def make_random_rows(query_rows: RowVectors, count: int, seed: int) -> RowVectors:
    """Draw row vectors of queries that mean nothing.

    Each has the number of rows and the weights of one of the queries, and vectors with the mean and the covariance of
    the row vectors of all queries.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = query_rows.select(generator.integers(len(query_rows), size=count))
    sample = query_rows.decode()[sample_rows(len(query_rows.codes), MAX_QUERIES, seed)]
    vectors = make_random_directions(sample, len(drawn.codes), seed)
    return RowVectors(encode_vectors(vectors), drawn.weights, drawn.lengths)


def make_random_directions(queries: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw unit vectors (n, d) with the mean and the covariance of queries (q, d): queries that mean nothing."""
    generator = np.random.Generator(np.random.PCG64(seed))
    mean = queries.mean(axis=0)
    factors = generator.standard_normal((count, len(queries))) / np.sqrt(len(queries))
    directions = factors @ (queries - mean) + mean
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(np.where(lengths > 0, directions / np.maximum(lengths, 1e-9), queries[:1]), np.float32)


def fit_calibration(
    hits: LabeledHits, unanswered_scores: np.ndarray, source: QuerySource, num_rows: int
) -> ScoreCalibration:
    """Fit a calibration to all queries, and judge each half by the maps that the other half gives.

    Args:
        hits: First hits of the queries; both halves have some.
        unanswered_scores: (n,) best scores of random directions.
        source: Where the queries come from.
        num_rows: Number of rows of the collection.
    """
    maps = _fit_maps(hits, unanswered_scores)
    judged = np.mean([_judge(hits, halves, unanswered_scores) for halves in hits.halves.T], axis=0)
    min_probability = min(_choose_threshold(found, hits.is_right) for found in (judged, maps.compute(hits.scores)))
    is_found = hits.is_right.any(axis=1)
    is_lost = is_found & (np.where(hits.is_right, judged, 0).max(axis=1) < min_probability)
    error, bins = measure_reliability(judged, hits.is_right)
    return ScoreCalibration(
        sharpness=SHARPNESS,
        depth=DEPTH,
        answered=maps.answered,
        chance=maps.chance,
        min_probability=min_probability,
        rows=num_rows,
        query_source=source,
        reliability=Reliability(
            error=error,
            first_error=measure_reliability(judged[:, :1], hits.is_right[:, :1])[0],
            num_queries=len(judged),
            right_found=round(float(is_found.mean()), 4),
            right_lost=round(float(is_lost.mean()), 4),
            bins=bins,
        ),
    )


def measure_reliability(probabilities: np.ndarray, is_right: np.ndarray) -> tuple[float, list[ReliabilityBin]]:
    """Compare probabilities with the share of right hits, in bins of equal width.

    Returns:
        Expected calibration error (Naeini et al., AAAI 2015), and the bins that have hits.
    """
    values, right = probabilities.ravel(), is_right.ravel()
    numbers = np.minimum((values * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins, error = [], 0.0
    for number in np.unique(numbers).tolist():
        in_bin = numbers == number
        count, mean, share = int(in_bin.sum()), float(values[in_bin].mean()), float(right[in_bin].mean())
        bins.append(ReliabilityBin(count=count, probability=round(mean, 4), right=round(share, 4)))
        error += count / len(values) * abs(mean - share)
    return round(error, 4), bins


def _judge(hits: LabeledHits, halves: np.ndarray, unanswered_scores: np.ndarray) -> np.ndarray:
    """Compute the probabilities of the hits of each half by the maps of the other half."""
    judged = np.empty(hits.scores.shape)
    for half in (0, 1):
        other = _fit_maps(hits.select(halves != half), unanswered_scores)
        judged[halves == half] = other.compute(hits.scores[halves == half])
    return judged


def _fit_maps(hits: LabeledHits, unanswered_scores: np.ndarray) -> _FittedMaps:
    best, num_queries, num_directions = hits.scores[:, 0], len(hits.scores), len(unanswered_scores)
    weights = np.repeat([1 / num_queries, 1 / num_directions], [num_queries, num_directions])
    is_query = np.repeat([1.0, 0.0], [num_queries, num_directions])
    answered = fit_isotonic(np.concatenate([best, unanswered_scores]), is_query, weights)
    products = apply_map(answered, hits.scores[:, :1]) * share_chance(hits.scores, SHARPNESS, DEPTH)
    # Two more hits, a right one at the lowest and a wrong one at the highest product: few hits are no certainty.
    chance = fit_isotonic(np.append(products, [0.0, 1.0]), np.append(hits.is_right, [True, False]).astype(np.float64))
    return _FittedMaps(answered, chance)


def _choose_threshold(probabilities: np.ndarray, is_right: np.ndarray) -> float:
    """Choose the highest threshold below which at most `MAX_LOST` of the queries lose all their right hits."""
    best = np.sort(np.where(is_right, probabilities, 0).max(axis=1)[is_right.any(axis=1)])
    return float(best[int(MAX_LOST * len(best))]) if len(best) else 0.0


def choose_halves(group: str) -> list[int]:
    """Choose the half of a group of queries, for each way to divide them."""
    return [int(digit, 16) % 2 for digit in sha256_text(group)[:NUM_SPLITS]]


def _label_hits(
    scores: np.ndarray, ids: Sequence[Sequence[str]], labels: QueryLabels, rows: np.ndarray, halves: np.ndarray
) -> LabeledHits:
    """Find which hits (q, k) are right; relevant items that are not in the collection are ranked among its items."""
    if labels.relevant_ids is not None:
        relevant = [labels.relevant_ids[row] for row in rows.tolist()]
        is_right = np.array([[name in line for name in names] for line, names in zip(relevant, ids, strict=False)])
        return LabeledHits(scores, is_right, halves)
    assert labels.relevant_scores is not None, "labels have ids or scores"
    added = np.asarray(labels.relevant_scores, np.float32)[rows, None]
    scores = np.hstack([scores, added])
    is_right = np.arange(scores.shape[1]) == scores.shape[1] - 1
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    ranked_is_right = np.take_along_axis(np.broadcast_to(is_right, scores.shape), order, axis=1)
    return LabeledHits(np.take_along_axis(scores, order, axis=1), ranked_is_right, halves)
