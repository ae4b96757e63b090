"""Metrics of groups of queries, such as long captions, from the ranks of their queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tern.evaluation.baselines import wilson_interval
from tern.evaluation.ranks import is_hit

MIN_QUERIES = 20  # of a group whose metrics say something


class Recall(NamedTuple):
    """A recall in percent with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupMetrics:
    """Metrics of some queries of one direction.

    Attributes:
        num_queries: queries of the group
        num_images: images that they belong to
        r1: recall@1
        r10: recall@10
        mrr: mean of 1 / rank, 0 to 1; a query without a usable vector counts as 0
    """

    num_queries: int
    num_images: int
    r1: Recall
    r10: Recall
    mrr: float

    @property
    def is_small(self) -> bool:
        """Whether the group has too few queries to conclude from."""
        return self.num_queries < MIN_QUERIES


def measure_group(ranks: Sequence[int | None], num_images: int) -> GroupMetrics:
    """Compute the metrics of a group of queries.

    The interval of a recall is Wilson's for as many independent queries as there are images, because captions of one
    image resemble each other.

    Args:
        ranks: Ranks from 1; None for a query without a usable vector. At least one.
        num_images: Number of different images that the queries belong to.
    """

    def recall(k: int) -> Recall:
        share = sum(is_hit(rank, k) for rank in ranks) / len(ranks)
        return Recall(100 * share, *(100 * bound for bound in wilson_interval(share, num_images)))

    mrr = sum(1 / rank for rank in ranks if rank is not None) / len(ranks)
    return GroupMetrics(len(ranks), num_images, recall(1), recall(10), mrr)
