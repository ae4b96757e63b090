"""How many lists to probe, and what that is worth: measured on held-out queries against exact search."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from index.collection import Collection
from index.ivf.distance import merge_top_k
from index.ivf.gpu import knn
from index.ivf.sharded_ivf import ShardedIVF

RECALL_K = 10  # recall at this many results
SCORE_TOLERANCE = 1e-5  # inner products closer than this are one score: float32 sums differ with the order of adding


@dataclass(frozen=True)
class TuningResult:
    """What was chosen on one half of the queries, and what it gives on the other."""

    nprobe: int  # lists
    recall: float  # share of the exact best `at` found, judged queries
    tuning_recall: float  # the same on the queries that chose nprobe
    k: int  # results
    num_test_queries: int  # queries
    num_tuning_queries: int  # queries
    target: float
    target_reached: bool  # the target, on the tuning queries; lossy codes may miss it with every list probed

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def exact_search(collection: Collection, queries: np.ndarray, k: int) -> tuple[np.ndarray, list[list[str]]]:
    """The true best k: scores (q, k) float32, highest first, and their ids. Memory is one block of vectors."""
    queries = np.ascontiguousarray(queries, np.float32)
    k = min(k, len(collection.ids))
    scores, places = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    start = 0
    for names, vectors in collection.iter_blocks():
        found, at = knn(queries, vectors, min(k, len(names)))
        scores, places = merge_top_k(np.hstack([scores, found]), np.hstack([places, at + start]), k)
        start += len(names)
    return scores, [[collection.sorted_ids[place] for place in line] for line in places]


def tune_nprobe(
    collection: Collection,
    names: Mapping[int, str],
    lists: ShardedIVF,
    queries: np.ndarray,
    target: float,
    seed: int,
    rescore: int = 0,
) -> TuningResult:
    """Choose the smallest nprobe whose recall@10 reaches `target` on a random half of the (q, d) queries.

    `names` are the ids by key; `rescore` rows are rescored by their whole vectors.

    The other half judges it. Recall hardly ever falls as nprobe grows, so bisection finds the smallest. Where lossy
    codes miss the target with every list probed, the aim is `target` times what they can give: the last lists would
    cost much and mend nothing.
    """
    chosen_on, judged_on = (queries[half] for half in split_queries(len(queries), seed, len(queries)))
    least = [kth_scores(collection, half) for half in (chosen_on, judged_on)]
    read = lambda keys: collection.read([names[key] for key in keys.tolist()])  # noqa: E731

    def measured(nprobe: int, half: np.ndarray, kth: np.ndarray) -> float:
        _, keys = lists.search(half, RECALL_K, nprobe, rescore=rescore)
        return float(np.mean(recall_by_score(read, half, kth, keys)))

    ladder = range(1, lists.nlist + 1)
    most = measured(lists.nlist, chosen_on, least[0])
    aim = target if most >= target else target * most
    place = bisect_left(ladder, aim, key=lambda nprobe: measured(nprobe, chosen_on, least[0]))
    nprobe = ladder[min(place, len(ladder) - 1)]
    on_chosen = measured(nprobe, chosen_on, least[0])
    return TuningResult(
        nprobe=nprobe,
        recall=measured(nprobe, judged_on, least[1]),
        tuning_recall=on_chosen,
        k=min(RECALL_K, len(collection.ids)),
        num_test_queries=len(judged_on),
        num_tuning_queries=len(chosen_on),
        target=target,
        target_reached=on_chosen >= target,
    )


def sample_rows(rows: int, most: int, seed: int) -> np.ndarray:
    """Sorted places of at most `most` of `rows`, at random: a prefix would be one split or one day of the data."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.sort(generator.choice(rows, min(rows, most), replace=False))


def split_queries(queries: int, seed: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the queries that choose, and of those that judge; of more than `most`, of a sample."""
    places = sample_rows(queries, most, seed)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(places))
    return places[order[::2]], places[order[1::2]]


def kth_scores(collection: Collection, queries: np.ndarray) -> np.ndarray:
    """(q,) the true score that an item must reach to be among the best `AT`."""
    return exact_search(collection, queries, RECALL_K)[0][:, -1]


def recall_by_score(
    read: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, kth: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """(q,) share of the places 1..AT of the found (q, k) keys that hold an item as good as the true ones.

    `read` gives the (m, d) vectors of (m,) keys. Judged by true score, not by id: two captions with the same words
    share one vector, and either is right.
    """
    different, where = np.unique(keys, return_inverse=True)
    vectors = read(different)[where.reshape(keys.shape)]  # (q, k, d)
    true = np.einsum("qd,qkd->qk", queries, vectors)
    return np.mean(true >= kth[:, None] - SCORE_TOLERANCE, axis=1)
