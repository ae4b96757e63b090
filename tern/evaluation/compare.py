"""Compare the ranks of the same queries in two evaluations: queries won and lost, and whether that may be chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tern.evaluation.ranks import Ranks, is_hit

NUM_RESAMPLES = 2000
BLOCK_ELEMENTS = 1 << 20  # drawn at once, so that memory does not grow with the number of images


@dataclass(frozen=True)
class RankComparison:
    """Recall@k of the same queries in two evaluations, `this` and `other`, in one direction.

    Attributes:
        num_queries: queries that both have
        num_unshared: queries that only one of the two has; they are left out
        recall: recall@k of this evaluation, in percent
        other_recall: recall@k of the other one
        won: queries that only this one finds, in the order of the argument `ranks`
        lost: queries that only the other one finds
        p_value: of the exact sign test of queries won and lost (McNemar's), two-sided
        low: lower end of the 95 % interval of the difference of the recalls, in points
        high: upper end
    """

    num_queries: int
    num_unshared: int
    recall: float
    other_recall: float
    won: tuple[str, ...]
    lost: tuple[str, ...]
    p_value: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Recall of this evaluation minus that of the other one, in points."""
        return self.recall - self.other_recall

    @property
    def p_text(self) -> str:
        """The p-value as tables show it, such as "p = 0.026"."""
        return "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"


def compare_ranks(ranks: Ranks, other_ranks: Ranks, image_ids: Mapping[str, str], k: int) -> RankComparison:
    """Compare the recall@k of two evaluations.

    Args:
        ranks: Ranks of this evaluation by query.
        other_ranks: Ranks of the other one.
        image_ids: Image of each query; the interval is over images, because captions of one image resemble each other.
        k: Number of results within which a query must succeed.

    Raises:
        ValueError: The two evaluations have no query in common.
    """
    queries = [query for query in ranks if query in other_ranks]
    if not queries:
        raise ValueError("The two evaluations have no query in common. Compare evaluations of the same split.")
    hits = np.array([is_hit(ranks[query], k) for query in queries])
    other_hits = np.array([is_hit(other_ranks[query], k) for query in queries])
    won = tuple(queries[i] for i in np.flatnonzero(hits & ~other_hits))
    lost = tuple(queries[i] for i in np.flatnonzero(other_hits & ~hits))
    _, images = np.unique([image_ids[query] for query in queries], return_inverse=True)
    differences = np.bincount(images, weights=hits.astype(float) - other_hits)
    low, high = bootstrap_mean(differences, np.bincount(images))
    return RankComparison(
        num_queries=len(queries),
        num_unshared=len(ranks) + len(other_ranks) - 2 * len(queries),
        recall=100 * float(hits.mean()),
        other_recall=100 * float(other_hits.mean()),
        won=won,
        lost=lost,
        p_value=sign_test(len(won), len(lost)),
        low=100 * low,
        high=100 * high,
    )


def sign_test(num_won: int, num_lost: int) -> float:
    """Compute the two-sided p-value of the exact sign test: that of a fair coin.

    For pairs of outcomes this is McNemar's exact test. It takes the queries as independent.
    """
    total, tail, term = num_won + num_lost, 0, 1
    for i in range(min(num_won, num_lost) + 1):
        tail += term  # term is C(total, i)
        term = term * (total - i) // (i + 1)
    return min(1.0, 2 * tail / 2**total)


def bootstrap_mean(
    sums: np.ndarray, counts: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Compute the 95 % percentile interval of a mean over queries, by drawing images with replacement.

    Args:
        sums: (n,) sum of the values of the queries of each image.
        counts: (n,) number of these queries, at least 1.
        num_resamples: Number of bootstrap samples.
        seed: Random seed; equal arguments give equal intervals.
    """
    means = [
        sums[rows].sum(axis=1) / counts[rows].sum(axis=1)
        for rows in iter_draws(len(sums), len(sums), num_resamples, seed)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def iter_draws(
    num_images: int, row_elements: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Iterator[np.ndarray]:
    """Draw images with replacement, as often as there are images.

    Args:
        num_images: Number of images, at least 1.
        row_elements: Elements that the caller computes per bootstrap sample, which limits the size of a block.
        num_resamples: Number of bootstrap samples.
        seed: Random seed. Equal numbers of images and seeds give equal draws, whatever the blocks are.

    Yields:
        Blocks (s, n) of rows of images.
    """
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK_ELEMENTS // row_elements)
    for start in range(0, num_resamples, step):
        yield rng.integers(0, num_images, (min(step, num_resamples - start), num_images))
