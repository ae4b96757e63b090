"""Measurements of the gate on one collection of a candidate."""

import time
from collections import Counter
from collections.abc import Collection as Ids
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from data.alignment import RowVectors
from data.io import digest
from index.collection import Collection, QueryLabels
from index.config import KINDS, QUERY_SOURCES, QuerySource
from index.ivf.vectors import is_in_sorted
from index.search.open_collection import OpenCollection
from index.tuning.nprobe import RECALL_K, SCORE_TOLERANCE, recall_by_score

COSINE_TOLERANCE = 2e-3  # two float16 roundings of one unit vector are closer
CODE_TOLERANCE, WEIGHT_TOLERANCE = 2, 1e-2  # two roundings of one row vector are closer
RERANKED = "reranked success@10"
QUERY_MEASURES = ("recall", "success@10")  # that queries are needed for, in every version
TIMED_QUERIES = 16  # queries run one at a time to measure latency


@dataclass(frozen=True)
class GateQueries:
    """Queries of one collection."""

    vectors: np.ndarray
    """(q, d) unit vectors, of the other kind where there are some: captions search images, images search captions"""
    relevant_ids: Sequence[Ids[str]] | None = None
    """per query the ids of its relevant items; None: unknown"""
    source: QuerySource = "held-out"
    """where they come from; relevant items are known of held-out queries and of those of the dataset"""
    relevant_scores: np.ndarray | None = None
    """(q,) scores of relevant items that are not in the collection, of calibration queries; None: unknown"""
    rows: RowVectors | None = None
    """row vectors of the queries, which rerank their hits; None: they have none"""

    @property
    def labels(self) -> QueryLabels | None:
        """What calibrates the scores of the collection.

        Queries of all splits do not: the model was trained with them, so that it is too certain of their hits.
        """
        if self.source == "held-out" and self.relevant_ids is not None:
            return QueryLabels(relevant_ids=self.relevant_ids)
        return None if self.relevant_scores is None else QueryLabels(relevant_scores=self.relevant_scores)

    @property
    def count(self) -> int:
        """Number of queries."""
        return len(self.vectors)

    @property
    def digest(self) -> str:
        """12 hex digits of the queries and their relevant items."""
        relevant_ids = None if self.relevant_ids is None else [sorted(ids) for ids in self.relevant_ids]
        facts = [sha256(self.vectors.tobytes()).hexdigest(), relevant_ids]
        return digest(facts if self.rows is None else [*facts, self.rows.digest])


def live_keys(collection: OpenCollection) -> np.ndarray:
    """Return the (n,) int64 keys of the live rows of a collection, ascending."""
    keys = np.sort(np.concatenate([shard.keys for shard in collection.vectors.shards]))
    return keys[~is_in_sorted(keys, collection.deleted_keys)]


def match_source_vectors(collection: OpenCollection, source: Collection | None, keys: np.ndarray) -> np.ndarray:
    """Return (n,) bool: whether the vectors of the rows `keys` are those of the source.

    The source must have the same vector for their id, and that vector must find them.

    Args:
        source: What the version was built from; None: only the stored vectors are searched.
    """
    stored = collection.vectors.get(keys).astype(np.float32)
    rows = collection.rows.by_key(keys.tolist())
    vectors = stored if source is None else source.read([rows[key].id for key in keys.tolist()])
    scores, results = _search(collection, vectors)
    # More than ten equal vectors displace each other: then the last of the ten is as good as the row itself.
    is_found = (results == keys[:, None]).any(axis=1) | (scores[:, -1] >= 1 - COSINE_TOLERANCE)
    return is_found & _equal_vectors(vectors, stored)


def match_source_rows(collection: OpenCollection, source: Collection | None, keys: np.ndarray) -> np.ndarray:
    """Return (n,) bool: whether the items `keys` have the row vectors of the source, and find themselves with them.

    Where weights are no shares that add up to 1, an item need not be the best for itself, and only the row vectors are
    compared. The arguments are those of `match_source_vectors`; the collection has row vectors.
    """
    assert collection.row_vectors is not None, "the collection has row vectors"
    stored, is_found = collection.row_vectors.get(keys), np.ones(len(keys), bool)
    if stored.has_shares:
        scores, results = _search(collection, collection.vectors.get(keys).astype(np.float32), stored)
        is_found = (results == keys[:, None]).any(axis=1) | (scores[:, -1] >= 1 - COSINE_TOLERANCE)
    if source is None or source.rows is None:
        return is_found
    rows = collection.rows.by_key(keys.tolist())
    return is_found & _equal_rows(stored, source.read_rows([rows[key].id for key in keys.tolist()]))


def match_served_vectors(collection: OpenCollection, served: OpenCollection, keys: np.ndarray) -> np.ndarray:
    """Return (n,) bool: whether the rows `keys` have equal vectors, and equal row vectors, in both versions.

    Args:
        collection: Collection of the candidate.
        served: The same collection of the served version.
        keys: (n,) int64 keys of rows that both versions have.
    """
    equal = _equal_vectors(collection.vectors.get(keys), served.vectors.get(keys))
    if collection.row_vectors is None or served.row_vectors is None:
        return equal
    return equal & _equal_rows(collection.row_vectors.get(keys), served.row_vectors.get(keys))


def match_served_results(collection: OpenCollection, served: OpenCollection, keys: np.ndarray) -> np.ndarray:
    """Return (n,) bool: whether the rows `keys` find the same results in both versions.

    Their vectors must find the same ten rows, except for ties. The arguments are those of `match_served_vectors`.
    """
    queries = collection.vectors.get(keys).astype(np.float32)
    (scores, results), (served_scores, served_results) = _search(collection, queries), _search(served, queries)
    above_last = scores > scores[:, -1:] + SCORE_TOLERANCE
    same = [
        set(row[above]) <= set(served_row.tolist())
        for row, served_row, above in zip(results, served_results, above_last, strict=True)
    ]
    return (np.abs(scores - served_scores) <= SCORE_TOLERANCE).all(axis=1) & np.array(same)


def _equal_vectors(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (m,) bool: unit vectors (m, d) are equal except for rounding."""
    return np.einsum("md,md->m", one.astype(np.float32), other.astype(np.float32)) >= 1 - COSINE_TOLERANCE


def _equal_rows(one: RowVectors, other: RowVectors) -> np.ndarray:
    """Return (n,) bool: the items have equal row vectors except for rounding."""
    equal = one.lengths == other.lengths
    if one.dim != other.dim or not equal.any():
        return np.zeros(len(equal), bool)
    one, other = one.select(np.flatnonzero(equal)), other.select(np.flatnonzero(equal))
    near = np.abs(one.codes.astype(np.int16) - other.codes).max(axis=1) <= CODE_TOLERANCE  # (m,)
    near &= np.abs(one.weights.astype(np.float32) - other.weights) <= WEIGHT_TOLERANCE
    equal[equal] = np.logical_and.reduceat(near, one.starts)
    return equal


def _search(
    collection: OpenCollection, queries: np.ndarray, rows: RowVectors | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Search with the parameters of the version; with row vectors of the queries, reranked."""
    reranking = collection.make_reranking(rows)
    if reranking is None or collection.row_vectors is None:
        return collection.search_lists(queries, RECALL_K)
    hits = collection.search_lists(queries, max(RECALL_K, reranking.depth))
    scores, keys = reranking.apply(*hits, collection.row_vectors.get)
    return scores[:, :RECALL_K], keys[:, :RECALL_K]


def _search_timed(
    collection: OpenCollection, queries: np.ndarray, rows: RowVectors | None = None
) -> tuple[np.ndarray, float]:
    """Return keys (q, k), and the median ms of the first queries, which are run one at a time."""
    keys, seconds = [], []
    batches = [np.array([i]) for i in range(min(TIMED_QUERIES, len(queries)))]
    for batch in [*batches, np.arange(TIMED_QUERIES, len(queries))]:
        start = time.perf_counter()
        if len(batch):
            keys.append(_search(collection, queries[batch], None if rows is None else rows.select(batch))[1])
        seconds.append(time.perf_counter() - start)
    return np.concatenate(keys), 1e3 * float(np.median(seconds[: len(batches)]))


def measure_queries(collection: OpenCollection, queries: GateQueries) -> tuple[dict[str, np.ndarray], float]:
    """Run queries on a collection.

    Returns:
        By measure, one value per query: "recall", the share of the exact best 10 that is found, and "success@10",
        whether a relevant item is found, if the relevant items are known; "reranked success@10", the same after
        reranking, if queries and items have row vectors; and the median time of a query in ms, reranking included.
    """
    kth = collection.vectors.kth_score(queries.vectors, RECALL_K, collection.deleted_keys)
    keys, latency_ms = _search_timed(collection, queries.vectors)
    values = {"recall": recall_by_score(collection.vectors.get, queries.vectors, kth, keys)}
    keys_by_measure = {"success@10": keys}
    if collection.make_reranking(queries.rows) is not None:
        keys_by_measure[RERANKED], latency_ms = _search_timed(collection, queries.vectors, queries.rows)
    for measure, keys in keys_by_measure.items() if queries.relevant_ids is not None else ():
        id_by_key = {key: row.id for key, row in collection.rows.by_key(np.unique(keys).tolist()).items()}
        values[measure] = np.array(
            [
                any(id_by_key[key] in relevant for key in line)
                for line, relevant in zip(keys.tolist(), queries.relevant_ids or (), strict=True)
            ]
        )
    return values, latency_ms


def count_removed(served: OpenCollection, candidate: OpenCollection | None) -> int:
    """Count the live ids of a served collection whose content a candidate no longer has; None: no such collection.

    An item that moved to another id with the same content hash is not gone. Only the metadata of rows that changed,
    appeared or disappeared is read: equal rows have equal keys.
    """
    keys = live_keys(served)
    if candidate is None:
        return len(keys)
    new_keys = live_keys(candidate)
    rows = served.rows.by_key(keys[~is_in_sorted(keys, new_keys)].tolist()).values()
    kept = candidate.rows.by_id([row.id for row in rows])
    gone = Counter(row.content_hash for row in rows if row.id not in kept)
    added = candidate.rows.by_key(new_keys[~is_in_sorted(new_keys, keys)].tolist()).values()
    gone.subtract(row.content_hash for row in added if row.content_hash is not None)
    return sum(count for count in gone.values() if count > 0)


def list_not_checked(kinds: Sequence[str], queries: Mapping[str, GateQueries], checks: Ids[str] = ()) -> dict[str, str]:
    """Return why a check was not made, by the name of the check.

    Args:
        kinds: Kinds of the collections that have rows.
        queries: By kind, the queries that were run.
        checks: Names of the checks that were made.
    """
    reasons: dict[str, str] = {}
    names: tuple[str, ...]
    for kind in KINDS:
        if kind not in kinds:
            names, reason = ("alignment", *QUERY_MEASURES, "latency"), f"the version has no {kind}s"
        elif kind not in queries:
            names, reason = (*QUERY_MEASURES, "latency"), f"there are no queries to search {kind}s with"
        elif queries[kind].relevant_ids is None:
            source = QUERY_SOURCES[queries[kind].source]
            names, reason = ("success@10",), f"the relevant {kind}s are unknown, because the queries are {source}"
        else:
            continue
        reasons |= {f"{kind} {name}": reason for name in names}
    for kind in kinds:
        if f"{kind} row vectors" in checks and f"{kind} {RERANKED}" not in checks:
            unranked = "the queries have no row vectors, or `index.rerank` is 0"
            reasons[f"{kind} {RERANKED}"] = reasons.get(f"{kind} success@10", unranked)
    uncalibrated = [kind for kind in kinds if f"{kind} calibration" not in checks]
    too_few = "too few queries have known relevant"
    return reasons | {f"{kind} calibration": f"{too_few} {kind}s" for kind in uncalibrated}
