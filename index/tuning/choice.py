"""The choice among measured ways to search: the least work that keeps every limit; what no other way beats."""

from collections.abc import Sequence
from dataclasses import dataclass

from index.tuning.nprobe import RECALL_K


@dataclass(frozen=True)
class TuningLimits:
    """What an index must give."""

    min_recall: float = 0.95  # share of the exact best 10, on the queries that choose
    max_memory_bytes: float = 8e9  # bytes: lists, centroids and the vectors to rescore with
    max_latency_s: float = 5e-3  # seconds a query, one at a time, on this machine


@dataclass(frozen=True)
class OperatingPoint:
    """One way to search, measured with one kind of query."""

    query_kind: str  # their kind: "text", "image"
    factory: str
    nlist: int
    nprobe: int  # lists
    rescore: int  # rows; 0: the codes' scores stand
    recall: float  # on the half that chooses
    test_recall: float  # on the other half
    work_us: float  # us a query, counted (`index.ladder`)
    memory_bytes: int  # bytes at the full number of rows
    latency_s: float  # seconds a query, one at a time, median; as all rows would take by the work
    cpu_s_single: float  # seconds of CPU a query, one at a time
    cpu_s_batch: float  # the same, 64 at a time


def choose_point(points: Sequence[OperatingPoint], wanted: TuningLimits, queries: str) -> OperatingPoint:
    """The least work of those that keep every limit with one kind of query; of equals the smaller, then by name.

    Raises ValueError that says which limit nothing keeps, and what comes nearest.
    """
    left = [point for point in points if point.query_kind == queries]
    limits = (
        (f"recall@{RECALL_K} of {wanted.min_recall}", lambda p: p.recall >= wanted.min_recall, lambda p: -p.recall),
        (
            f"{wanted.max_memory_bytes / 1e9:g} GB",
            lambda p: p.memory_bytes <= wanted.max_memory_bytes,
            lambda p: p.memory_bytes,
        ),
        (
            f"{1000 * wanted.max_latency_s:g} ms a query",
            lambda p: p.latency_s <= wanted.max_latency_s,
            lambda p: p.latency_s,
        ),
    )
    for name, keeps, order in limits:
        kept = [point for point in left if keeps(point)]
        if not kept:
            near = min(left, key=order)
            raise ValueError(
                f"no way to search keeps {name} for {queries} queries; the nearest is {near.factory}, "
                f"{near.nprobe} lists, rescoring {near.rescore}: recall {near.recall:.3f}, {near.memory_bytes / 1e9:.3g} GB, "
                f"{1000 * near.latency_s:.3g} ms. Ask for less, or give more memory."
            )
        left = kept
    return min(left, key=lambda point: (point.work_us, point.memory_bytes, point.factory, point.rescore))


def pareto_front(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Those that no other beats in recall, work and memory at once, least work first."""

    def beaten(one: OperatingPoint) -> bool:
        mine = (-one.recall, one.work_us, one.memory_bytes)
        others = (
            (-other.recall, other.work_us, other.memory_bytes) for other in points if other.query_kind == one.query_kind
        )
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in others)

    return sorted((point for point in points if not beaten(point)), key=lambda point: (point.work_us, point.factory))
