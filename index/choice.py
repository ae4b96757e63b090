"""The choice among measured ways to search: the least work that keeps every limit; what no other way beats."""

from collections.abc import Sequence
from dataclasses import dataclass

from index.tune import AT


@dataclass(frozen=True)
class Wanted:
    """What an index must give."""

    recall: float = 0.95  # share of the exact best 10, on the queries that choose
    memory: float = 8e9  # bytes: lists, centroids and the vectors to rescore with
    latency: float = 5e-3  # seconds a query, one at a time, on this machine


@dataclass(frozen=True)
class Point:
    """One way to search, measured with one kind of query."""

    queries: str  # their kind: "text", "image"
    factory: str
    nlist: int
    nprobe: int  # lists
    rescore: int  # rows; 0: the codes' scores stand
    recall: float  # on the half that chooses
    judged: float  # on the other half
    work: float  # us a query, counted (`index.ladder`)
    memory: int  # bytes at the full number of rows
    latency: float  # seconds a query, one at a time, median; as all rows would take by the work
    single: float  # seconds of CPU a query, one at a time
    together: float  # the same, 64 at a time


def choose(points: Sequence[Point], wanted: Wanted, queries: str) -> Point:
    """The least work of those that keep every limit with one kind of query; of equals the smaller, then by name.

    Raises ValueError that says which limit nothing keeps, and what comes nearest.
    """
    left = [point for point in points if point.queries == queries]
    limits = (
        (f"recall@{AT} of {wanted.recall}", lambda p: p.recall >= wanted.recall, lambda p: -p.recall),
        (f"{wanted.memory / 1e9:g} GB", lambda p: p.memory <= wanted.memory, lambda p: p.memory),
        (f"{1000 * wanted.latency:g} ms a query", lambda p: p.latency <= wanted.latency, lambda p: p.latency),
    )
    for name, keeps, order in limits:
        kept = [point for point in left if keeps(point)]
        if not kept:
            near = min(left, key=order)
            raise ValueError(
                f"no way to search keeps {name} for {queries} queries; the nearest is {near.factory}, "
                f"{near.nprobe} lists, rescoring {near.rescore}: recall {near.recall:.3f}, {near.memory / 1e9:.3g} GB, "
                f"{1000 * near.latency:.3g} ms. Ask for less, or give more memory."
            )
        left = kept
    return min(left, key=lambda point: (point.work, point.memory, point.factory, point.rescore))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in recall, work and memory at once, least work first."""

    def beaten(one: Point) -> bool:
        mine = (-one.recall, one.work, one.memory)
        others = ((-other.recall, other.work, other.memory) for other in points if other.queries == one.queries)
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in others)

    return sorted((point for point in points if not beaten(point)), key=lambda point: (point.work, point.factory))
