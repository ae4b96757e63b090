"""Choice among measured operating points: the least work within all limits, and the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass

from index.tuning.nprobe import RECALL_K


@dataclass(frozen=True)
class TuningLimits:
    """Limits that an operating point must keep."""

    min_recall: float = 0.95
    """minimum recall@10 against exact search on the tuning queries, 0 to 1"""
    max_memory_bytes: float = 8e9
    """maximum size of lists, centroids and the vectors for rescoring"""
    max_latency_s: float = 5e-3
    """maximum time of a single query on this machine, in seconds"""


@dataclass(frozen=True)
class OperatingPoint:
    """One set of search settings, measured with one kind of query."""

    query_kind: str
    """text or image"""
    factory: str
    nlist: int
    nprobe: int
    """number of lists to probe"""
    rescore: int
    """number of rows to rescore; 0: the scores of the codes are final"""
    recall: float
    """recall@10 on the tuning half of the queries"""
    test_recall: float
    """recall@10 on the other half"""
    work_us: float
    """us per query, computed from counted operations (`index.tuning.autotune`)"""
    memory_bytes: int
    """size at the full number of rows"""
    latency_s: float
    """median seconds of single queries, scaled to the full number of rows by the work"""
    cpu_s_single: float
    """CPU seconds per query, one at a time"""
    cpu_s_batch: float
    """CPU seconds per query, 64 at a time"""


def choose_point(points: Sequence[OperatingPoint], limits: TuningLimits, query_kind: str) -> OperatingPoint:
    """Choose the point with the least work within all limits; of equals the smaller, then by factory.

    Args:
        points: Measured points of any kind of query.
        limits: Minimum recall, maximum memory and maximum latency.
        query_kind: Kind of query whose points are compared: text or image.

    Raises:
        ValueError: No point keeps a limit; the message names the limit and the nearest point.
    """
    candidates = [point for point in points if point.query_kind == query_kind]
    criteria = (
        (
            f"recall@{RECALL_K} of {limits.min_recall}",
            lambda p: p.recall >= limits.min_recall,
            lambda p: -p.recall,
        ),
        (
            f"{limits.max_memory_bytes / 1e9:g} GB",
            lambda p: p.memory_bytes <= limits.max_memory_bytes,
            lambda p: p.memory_bytes,
        ),
        (
            f"{1000 * limits.max_latency_s:g} ms per query",
            lambda p: p.latency_s <= limits.max_latency_s,
            lambda p: p.latency_s,
        ),
    )
    for name, is_within, distance in criteria:
        selected = [point for point in candidates if is_within(point)]
        if not selected:
            near = min(candidates, key=distance)
            raise ValueError(
                f"No operating point keeps the limit {name} for {query_kind} queries. The nearest is "
                f"{near.factory}, nprobe {near.nprobe}, rescore {near.rescore}: recall {near.recall:.3f}, "
                f"{near.memory_bytes / 1e9:.3g} GB, {1000 * near.latency_s:.3g} ms. Relax the limit."
            )
        candidates = selected
    return min(candidates, key=lambda point: (point.work_us, point.memory_bytes, point.factory, point.rescore))


def pareto_front(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Return the points that no other point of their query kind beats, least work first.

    Points are compared in recall, work and memory.
    """

    def is_dominated(one: OperatingPoint) -> bool:
        costs = (-one.recall, one.work_us, one.memory_bytes)
        other_costs = (
            (-other.recall, other.work_us, other.memory_bytes) for other in points if other.query_kind == one.query_kind
        )
        return any(other != costs and all(a <= b for a, b in zip(other, costs, strict=True)) for other in other_costs)

    front = (point for point in points if not is_dominated(point))
    return sorted(front, key=lambda point: (point.work_us, point.factory))
