"""What the gate measures of one collection, and how a share is held against its limit."""

import math
import time
from collections.abc import Collection as Ids
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from data.io import digest
from index.collection import Collection
from index.ivf.vectors import is_in_sorted
from index.search.index import OpenCollection
from index.tuning.nprobe import RECALL_K, SCORE_TOLERANCE, recall_by_score

COSINE_TOLERANCE = 2e-3  # of a cosine: two float16 roundings of one unit vector are nearer
TIMED_QUERIES = 16  # queries, one at a time


@dataclass(frozen=True)
class HeldOutQueries:
    """Held-out queries of one direction.

    vectors  (q, d) unit vectors of the other kind: sentences ask for images, photographs for captions
    right    for each query the ids of its right answers, where they are known
    """

    vectors: np.ndarray
    relevant_ids: Sequence[Ids[str]] | None = None

    @property
    def count(self) -> int:
        """Queries."""
        return len(self.vectors)

    @property
    def digest(self) -> str:
        """12 hex digits of the queries and their right answers."""
        right = None if self.relevant_ids is None else [sorted(names) for names in self.relevant_ids]
        return digest([sha256(self.vectors.tobytes()).hexdigest(), right])


def live_keys(opened: OpenCollection) -> np.ndarray:
    """(n,) int64 keys of a collection's living rows, ascending."""
    keys = np.sort(np.concatenate([shard.keys for shard in opened.vectors.shards]))
    return keys[~is_in_sorted(keys, opened.deleted_keys)]


def match_source_vectors(opened: OpenCollection, source: Collection | None, keys: np.ndarray) -> np.ndarray:
    """(n,) bool of the rows `keys`: whether the vector that their id has in the source is theirs, and finds them."""
    stored = opened.vectors.get(keys).astype(np.float32)
    rows = opened.rows.by_key(keys.tolist())
    given = stored if source is None else source.read([rows[key]["id"] for key in keys.tolist()])
    scores, found = _search(opened, given)
    # More than ten equal vectors crowd each other out: then the last of the ten is as good as the row itself.
    seen = (found == keys[:, None]).any(axis=1) | (scores[:, -1] >= 1 - COSINE_TOLERANCE)
    return seen & _same(given, stored)


def match_served_vectors(opened: OpenCollection, before: OpenCollection, keys: np.ndarray) -> np.ndarray:
    """(n,) bool of the rows `keys`, which both versions have: whether their vector is the same."""
    return _same(opened.vectors.get(keys), before.vectors.get(keys))


def match_served_results(opened: OpenCollection, before: OpenCollection, keys: np.ndarray) -> np.ndarray:
    """(n,) bool of the rows `keys`: whether their vectors find the same ten in both; ties at the tenth pass."""
    queries = opened.vectors.get(keys).astype(np.float32)
    (ours, found), (theirs, other) = _search(opened, queries), _search(before, queries)
    sure = ours > ours[:, -1:] + SCORE_TOLERANCE
    same = [set(one[mine]) <= set(two.tolist()) for one, two, mine in zip(found, other, sure, strict=True)]
    return (np.abs(ours - theirs) <= SCORE_TOLERANCE).all(axis=1) & np.array(same)


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(m,) whether unit vectors (m, d) are the same but for rounding."""
    return np.einsum("md,md->m", one.astype(np.float32), other.astype(np.float32)) >= 1 - COSINE_TOLERANCE


def _search(opened: OpenCollection, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    usual = opened.manifest.search
    return opened.lists.search(queries, RECALL_K, usual.nprobe, rescore=usual.rescore)


def _timed(opened: OpenCollection, queries: np.ndarray) -> tuple[np.ndarray, float]:
    """Keys (q, k) that are found, and the median time of the queries that were asked one at a time, ms."""
    found, times = [], []
    for query in queries[:TIMED_QUERIES]:
        began = time.perf_counter()
        found.append(_search(opened, query[None])[1])
        times.append(time.perf_counter() - began)
    if len(queries) > TIMED_QUERIES:
        found.append(_search(opened, queries[TIMED_QUERIES:])[1])
    return np.concatenate(found), 1e3 * float(np.median(times))


def measure_queries(opened: OpenCollection, asked: HeldOutQueries) -> tuple[dict[str, np.ndarray], float]:
    """Of each query the share of the exact best 10 that it finds, and whether it finds a right answer, if known.

    And the median time of a query, ms.
    """
    kth = opened.vectors.kth_score(asked.vectors, RECALL_K, opened.deleted_keys)
    keys, took = _timed(opened, asked.vectors)
    found = {"recall": recall_by_score(opened.vectors.get, asked.vectors, kth, keys)}
    if asked.relevant_ids is not None:
        ids = {key: row["id"] for key, row in opened.rows.by_key(np.unique(keys).tolist()).items()}
        hits = [
            any(ids[key] in right for key in line)
            for line, right in zip(keys.tolist(), asked.relevant_ids, strict=True)
        ]
        found["success@10"] = np.array(hits)
    return found, took


def check_latency(took: float, most: float) -> dict[str, Any]:
    """The time of a query against its limit, ms."""
    return {"value": round(took, 3), "max": most, "passed": took <= most, "unit": "ms a query"}


def check_share(values: np.ndarray, least: float, served: float | None = None, every: bool = False) -> dict[str, Any]:
    """The mean of values from 0 to 1 against its limit: refused if two standard errors do not bring it there.

    The variance is that of the values and of one more, 1 beside their mean: three equal values are no certainty. They
    are one if they are `every` value that there is.
    """
    values = values.astype(np.float64)
    found, count = float(values.mean()), len(values)
    doubt = 0.0 if every else 2 * math.sqrt(((values - found) ** 2).sum() + 1) / count
    check = {"value": round(found, 4), "min": round(least, 4), "count": count, "passed": found + doubt >= least}
    return check if served is None else check | {"served_value": round(served, 4)}


def format_check(check: Mapping[str, Any]) -> str:
    """A check in words."""
    if "problem" in check:
        return check["problem"] or "as the manifest says"
    limit = "at least" if "min" in check else "at most"
    served = f", served {check['served_value']:g}" if "served_value" in check else ""
    of = f" of {check['count']}" if "count" in check else f" {check['unit']}"
    return f"{check['value']:g}{of}, {limit} {check['min' if 'min' in check else 'max']:g} is asked{served}"
