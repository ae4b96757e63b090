"""Section of the page of misses about two evaluations: every metric side by side, and pictures of what changed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.datasets import Dataset
from data.text import printable
from pipeline.pages.miss_records import MissReport
from pipeline.runs.quality import SplitComparison
from tern.evaluation import DIRECTIONS, MetricDifference, Ranks

METRIC_LABELS = {"r1": "R@1, %", "r5": "R@5, %", "r10": "R@10, %", "medr": "median rank", "meanr": "mean rank"}
RANK_METRICS = ("medr", "meanr")  # the smaller, the better
NO_VECTOR = 1 << 30  # rank of a query without a vector, behind all others


@dataclass(frozen=True)
class ComparedMetric:
    """A metric of both evaluations as the page shows it.

    Attributes:
        reading: "better" or "worse" if the interval of the difference excludes 0; "equal" or "may be chance"
        chance: level of chance; empty for a rank
    """

    label: str
    num_queries: int
    value: str
    other: str
    difference: str
    low: str
    high: str
    reading: str
    chance: str


@dataclass(frozen=True)
class ChangeCard:
    """A query that was won or lost.

    Attributes:
        image: data URI of the image of the query, or of the one that a caption describes
        query: id of the query
        text: the caption, or the first caption of the image
        rank: rank in this evaluation, from 1; None without a vector
        other_rank: rank in the other one
    """

    image: str
    query: str
    text: str
    rank: int | None
    other_rank: int | None


@dataclass(frozen=True)
class Changes:
    """Queries of one direction that were won, or that were lost.

    Attributes:
        kind: won or lost
        direction: key of `DIRECTIONS`
        total: number of these queries
        cards: those that moved most
    """

    kind: str
    direction: str
    total: int
    cards: tuple[ChangeCard, ...]


def list_compared_metrics(report: MissReport) -> list[ComparedMetric]:
    """List the rows of the table of metrics; none without a comparison."""
    differences = report.comparison.metrics if report.comparison else {}
    return [_make_row(one, report.chance or {}) for one in differences.values()]


def _make_row(one: MetricDifference, chance: dict[str, float]) -> ComparedMetric:
    direction, _, key = one.name.partition("_")
    label = f"{DIRECTIONS[direction]} {METRIC_LABELS[key]}" if key else "rsum, of 600"
    digits = 0 if key == "medr" else 1
    return ComparedMetric(
        label,
        one.num_queries,
        f"{one.value:,.{digits}f}",
        f"{one.other:,.{digits}f}",
        f"{one.difference:+,.{digits}f}",
        f"{one.low:+,.{digits}f}",
        f"{one.high:+,.{digits}f}",
        _read(one, key in RANK_METRICS),
        f"{chance[one.name]:.1f}" if one.name in chance else "",
    )


def _read(one: MetricDifference, is_rank: bool) -> str:
    if one.low <= 0 <= one.high:
        return "equal" if one.value == one.other and one.low == one.high else "may be chance"
    return "better" if (one.low > 0) != is_rank else "worse"


def iter_changes(
    comparison: SplitComparison, dataset: Dataset, limit: int, encode: Callable[[Path], str]
) -> Iterator[Changes]:
    """Yield what was won and what was lost in each direction, if there is anything.

    Args:
        comparison: The two evaluations.
        dataset: Dataset of the queries.
        limit: Maximum number of cards of each kind and direction.
        encode: Makes the data URI of the thumbnail of an image file.
    """
    for direction in DIRECTIONS:
        ranks = comparison.ranks.get_direction(direction)
        other_ranks = comparison.other_ranks.get_direction(direction)

        def count_places(query: str, ranks: Ranks = ranks, other_ranks: Ranks = other_ranks) -> int:
            return abs((ranks[query] or NO_VECTOR) - (other_ranks[query] or NO_VECTOR))

        one = comparison.directions[direction]
        for kind, queries in (("won", one.won), ("lost", one.lost)):
            shown = sorted(queries, key=count_places, reverse=True)[:limit]
            cards = (_make_card(query, ranks[query], other_ranks[query], dataset, encode) for query in shown)
            if queries:
                yield Changes(kind, direction, len(queries), tuple(cards))


def _make_card(
    query: str, rank: int | None, other_rank: int | None, dataset: Dataset, encode: Callable[[Path], str]
) -> ChangeCard:
    if caption := dataset.captions_by_id.get(query):
        image, text = dataset.images_by_id[caption.image_id], caption.text
    else:
        image = dataset.images_by_id[query]
        captions = dataset.captions_by_image_id[query]
        text = captions[0].text if captions else ""
    return ChangeCard(encode(image.path), printable(query), printable(text), rank, other_rank)
