"""Records of the page of misses: missed queries, and the report of a split."""

from dataclasses import dataclass

from pipeline.runs.quality import SplitComparison
from tern.evaluation import RetrievalMetrics

MAX_SHOWN = 40  # queries of a kind that the page shows by default


@dataclass(frozen=True)
class Miss:
    """A query whose relevant item is not ranked within the first k.

    Attributes:
        direction: key of `tern.evaluation.DIRECTIONS`
        query: id of the caption or image
        rank: rank of the relevant item, from 1; for an image, of the best of its captions
        score: cosine of query and relevant item
        higher_ranked: ids and cosines of the items that are ranked higher, best first
        other_rank: rank in the evaluation that this one is compared with; None without one, or without a vector there
    """

    direction: str
    query: str
    rank: int
    relevant_id: str
    score: float
    higher_ranked: tuple[tuple[str, float], ...]
    other_rank: int | None = None

    @property
    def margin(self) -> float:
        """Score of the best item minus score of the relevant item."""
        return self.higher_ranked[0][1] - self.score


@dataclass(frozen=True)
class MissReport:
    """Misses of a split: all of them are counted, the worst are listed.

    Attributes:
        num_queries: by direction, with those that have no vector, which are missed
        num_missed: by direction
        worst: by direction, largest rank first; with a comparison those first that only the other evaluation finds
        chance: recalls of a random ranking, as of `chance_recalls`; None if they were not computed
        comparison: this evaluation compared with another one
        limit: largest number of queries that the page shows of a kind
    """

    split: str
    k: int
    metrics: RetrievalMetrics
    num_queries: dict[str, int]
    num_missed: dict[str, int]
    worst: dict[str, tuple[Miss, ...]]
    chance: dict[str, float] | None = None
    comparison: SplitComparison | None = None
    limit: int = MAX_SHOWN
