"""Choose nprobe and the rescoring depth on one half of the held-out queries; measure the recall on the other half."""

from bisect import bisect_left
from collections.abc import Callable, Mapping

import numpy as np

from index.collection import Collection
from index.ivf.distance import merge_top_k
from index.ivf.gpu import knn
from index.ivf.sharded_ivf import ShardedIVF
from index.versions.manifest import RecallReport

RECALL_K = 10  # recall at this number of results
RESCORE_DEPTHS = (50, 100, 200, 400, 800, 1600)  # rows that a build may rescore per query
SCORE_TOLERANCE = 1e-5  # closer inner products are equal: float32 sums depend on the order of addition


def exact_search(collection: Collection, queries: np.ndarray, k: int) -> tuple[np.ndarray, list[list[str]]]:
    """Find the exact best k of all vectors for (q, d) queries, with one block of vectors in memory.

    Args:
        collection: Collection to search.
        queries: (q, d) unit vectors.
        k: Number of results per query; at most the size of the collection is returned.

    Returns:
        Scores (q, k) float32, highest first, and their ids.
    """
    scores, positions = find_nearest(collection, queries, k)
    return scores, [[collection.sorted_ids[position] for position in line] for line in positions]


def find_nearest(collection: Collection, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find what `exact_search` finds; return scores (q, k) and positions (q, k) in the sorted ids."""
    queries = np.ascontiguousarray(queries, np.float32)
    k = min(k, len(collection.ids))
    scores, positions = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    start = 0
    for ids, vectors in collection.iter_blocks():
        block_scores, block_positions = knn(queries, vectors, min(k, len(ids)))
        scores, positions = merge_top_k(
            np.hstack([scores, block_scores]), np.hstack([positions, block_positions + start]), k
        )
        start += len(ids)
    return scores, positions


class SearchTuner:
    """Chooses the search parameters of a collection on one random half of its queries; the other half measures them.

    Args:
        collection: The vectors.
        id_by_key: Ids of the 64-bit keys.
        lists: The inverted lists of all vectors.
        queries: (q, d) unit vectors.
        seed: Random seed of the halves.
    """

    def __init__(
        self,
        collection: Collection,
        id_by_key: Mapping[int, str],
        lists: ShardedIVF,
        queries: np.ndarray,
        seed: int,
    ):
        self._collection, self._id_by_key, self._lists = collection, id_by_key, lists
        halves = (queries[half] for half in split_queries(len(queries), seed, len(queries)))
        self._tuning_half, self._test_half = ((half, kth_scores(collection, half)) for half in halves)

    def choose_rescore(self, target: float) -> int:
        """Choose the smallest of `RESCORE_DEPTHS` that misses at most half of what `target` allows.

        Every list is probed, so the other half is left to `tune_nprobe`.
        """
        aim, nlist = (1 + target) / 2, self._lists.nlist
        return next(
            (depth for depth in RESCORE_DEPTHS if self._measure(nlist, depth, self._tuning_half) >= aim),
            RESCORE_DEPTHS[-1],
        )

    def tune_nprobe(self, target: float, rescore: int = 0) -> RecallReport:
        """Choose the smallest nprobe whose recall@10 reaches `target` on the tuning half.

        Recall almost never falls as nprobe grows, so bisection finds the smallest. If lossy codes miss the target with
        every list probed, the aim is `target` times their best recall, because the last lists would cost much and gain
        nothing.

        Args:
            target: Recall@10, 0 to 1.
            rescore: Number of rows that are rescored with their uncompressed vectors.
        """
        candidates = range(1, self._lists.nlist + 1)
        best_recall = self._measure(self._lists.nlist, rescore, self._tuning_half)
        aim = target if best_recall >= target else target * best_recall
        position = bisect_left(candidates, aim, key=lambda nprobe: self._measure(nprobe, rescore, self._tuning_half))
        nprobe = candidates[min(position, len(candidates) - 1)]
        tuning_recall = self._measure(nprobe, rescore, self._tuning_half)
        return RecallReport(
            nprobe=nprobe,
            recall=self._measure(nprobe, rescore, self._test_half),
            tuning_recall=tuning_recall,
            k=min(RECALL_K, len(self._collection.ids)),
            num_test_queries=len(self._test_half[0]),
            num_tuning_queries=len(self._tuning_half[0]),
            target=target,
            target_reached=tuning_recall >= target,
        )

    def _measure(self, nprobe: int, rescore: int, half: tuple[np.ndarray, np.ndarray]) -> float:
        """Return the mean recall of queries with their k-th exact scores."""
        queries, kth = half
        _, keys = self._lists.search(queries, RECALL_K, nprobe, rescore=rescore)
        return float(np.mean(recall_by_score(self._read, queries, kth, keys)))

    def _read(self, keys: np.ndarray) -> np.ndarray:
        return self._collection.read([self._id_by_key[key] for key in keys.tolist()])


def sample_rows(rows: int, max_rows: int, seed: int) -> np.ndarray:
    """Return sorted positions of random rows; a prefix would be one split or one day of the data.

    Args:
        rows: Number of rows to draw from.
        max_rows: Maximum number of positions; all rows are returned if there are no more.
        seed: Random seed.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.sort(generator.choice(rows, min(rows, max_rows), replace=False))


def split_queries(num_queries: int, seed: int, max_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide queries at random into those for tuning and those for the test.

    Args:
        num_queries: Number of queries.
        seed: Random seed.
        max_queries: Maximum number of queries in both halves together; of more, a random sample is divided.

    Returns:
        The positions of the tuning queries and those of the test queries; the first half is larger by one if their sum
        is odd.
    """
    positions = sample_rows(num_queries, max_queries, seed)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(positions))
    return positions[order[::2]], positions[order[1::2]]


def kth_scores(collection: Collection, queries: np.ndarray) -> np.ndarray:
    """Return the (q,) exact score that an item must reach to be among the best `RECALL_K`."""
    return exact_search(collection, queries, RECALL_K)[0][:, -1]


def recall_by_score(
    read: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, kth: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """Return the (q,) share of (q, k) retrieved keys whose exact score reaches the k-th exact score.

    Items are compared by score, not by id: two captions with the same words have one vector, and either is correct.

    Args:
        read: Returns the (m, d) vectors of (m,) keys.
        queries: (q, d).
        kth: (q,) scores of `kth_scores`.
    """
    unique_keys, positions = np.unique(keys, return_inverse=True)
    vectors = read(unique_keys)[positions.reshape(keys.shape)]  # (q, k, d)
    exact_scores = np.einsum("qd,qkd->qk", queries, vectors)
    return np.mean(exact_scores >= kth[:, None] - SCORE_TOLERANCE, axis=1)
