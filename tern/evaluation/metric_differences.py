"""Every metric of the same queries in two evaluations: differences and their intervals by a bootstrap over images.

Shapes: q queries, n images, s bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tern.evaluation.compare import iter_draws
from tern.evaluation.metrics import RECALL_CUTOFFS
from tern.evaluation.ranks import DIRECTIONS, Ranks, SplitRanks, is_hit

RSUM = "rsum"


@dataclass(frozen=True)
class MetricDifference:
    """A metric of the same queries in two evaluations, `this` and `other`.

    Attributes:
        name: name of the metric as in `RetrievalMetrics.flat`, such as `t2i_r1`
        num_queries: queries that both have
        value: metric of this evaluation
        other: metric of the other one
        low: lower end of the 95 % interval of the difference
        high: upper end
    """

    name: str
    num_queries: int
    value: float
    other: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Metric of this evaluation minus that of the other one."""
        return self.value - self.other


def compare_metrics(
    ranks: SplitRanks, other_ranks: SplitRanks, image_ids: Mapping[str, str]
) -> dict[str, MetricDifference]:
    """Compare recalls, median rank, mean rank and rsum of the queries that two evaluations share.

    Args:
        ranks: Ranks of this evaluation.
        other_ranks: Ranks of the other one.
        image_ids: Image of each query. Each bootstrap sample draws images, with all of their queries, once for both
            evaluations and both directions.

    Returns:
        By name: the metrics of text to image, those of image to text, then rsum. A direction without a query in common
        has none, and rsum is there if both directions are.

    Raises:
        ValueError: The two have no query in common.
    """
    queries = {name: _list_shared(ranks.get_direction(name), other_ranks.get_direction(name)) for name in DIRECTIONS}
    shared = [query for names in queries.values() for query in names]
    if not shared:
        raise ValueError("The two evaluations have no query in common. Compare evaluations of the same split.")
    names, positions = np.unique([image_ids[query] for query in shared], return_inverse=True)
    rows, start = {}, 0
    for direction in DIRECTIONS:
        rows[direction] = positions[start : start + len(queries[direction])]
        start += len(queries[direction])
    sides = [_Side(split_ranks, queries, rows) for split_ranks in (ranks, other_ranks)]
    values, other_values = (side.measure(np.ones((1, len(names)), np.int64)) for side in sides)
    samples = []
    for draws in iter_draws(len(names), len(shared)):
        weights = _count_draws(draws)
        this, other = (side.measure(weights) for side in sides)
        samples.append(np.stack([this[name] - other[name] for name in values]))
    low, high = np.percentile(np.concatenate(samples, axis=1), [2.5, 97.5], axis=1)
    return {
        name: MetricDifference(
            name,
            len(queries.get(name.partition("_")[0], shared)),
            float(values[name][0]),
            float(other_values[name][0]),
            float(low[i]),
            float(high[i]),
        )
        for i, name in enumerate(values)
    }


def _list_shared(ranks: Ranks, other_ranks: Ranks) -> list[str]:
    return [query for query in ranks if query in other_ranks]


def _count_draws(draws: np.ndarray) -> np.ndarray:
    """Count how often each image is drawn: (s, n) rows of images -> (s, n)."""
    num_samples, num_images = draws.shape
    offsets = num_images * np.arange(num_samples)[:, None]
    return np.bincount((draws + offsets).ravel(), minlength=draws.size).reshape(draws.shape)


class _Side:
    """The ranks of the shared queries in one evaluation, in ascending order per direction.

    Args:
        ranks: Ranks of the evaluation.
        queries: Shared queries by direction.
        rows: Row of the image of each of them.
    """

    def __init__(self, ranks: SplitRanks, queries: Mapping[str, list[str]], rows: Mapping[str, np.ndarray]) -> None:
        num_items = {"t2i": len(ranks.i2t), "i2t": len(ranks.t2i)}
        self._directions: dict[str, tuple[np.ndarray, np.ndarray, list[int]]] = {}
        for direction, names in queries.items():
            if not names:
                continue
            found = [ranks.get_direction(direction)[name] for name in names]
            # A query without a vector is missed: its rank is the last one, as in `summarize_ranks`.
            last = max(num_items[direction], *(rank or 1 for rank in found))
            values, is_missed = np.array([rank or last for rank in found]), np.array([rank is None for rank in found])
            order = np.lexsort((is_missed, values))
            ends = [sum(is_hit(rank, k) for rank in found) for k in RECALL_CUTOFFS]
            self._directions[direction] = values[order], rows[direction][order], ends

    def measure(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the metrics of samples of images: (s, n) how often each image counts -> (s,) by name."""
        metrics: dict[str, np.ndarray] = {}
        for direction, (ranks, rows, ends) in self._directions.items():
            counts = weights[:, rows]  # (s, q)
            means = counts @ ranks
            counts = counts.cumsum(axis=1)  # (s, q) queries up to each one
            total = np.maximum(counts[:, -1], 1)  # a sample may have no image with a query of this direction
            for k, end in zip(RECALL_CUTOFFS, ends, strict=True):
                metrics[f"{direction}_r{k}"] = 100 * (counts[:, end - 1] / total if end else np.zeros(len(counts)))
            lower, upper = (
                ranks[(counts > position[:, None]).argmax(axis=1)] for position in ((total - 1) // 2, total // 2)
            )
            metrics[f"{direction}_medr"] = (lower + upper) // 2.0  # floor(median), as in `summarize_ranks`
            metrics[f"{direction}_meanr"] = means / total
        if len(self._directions) == len(DIRECTIONS):
            metrics[RSUM] = sum((metrics[f"{d}_r{k}"] for d in DIRECTIONS for k in RECALL_CUTOFFS), np.zeros(1))
        return metrics
