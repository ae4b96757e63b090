"""Measure candidate settings (code, number of lists, nprobe, rescoring depth) on a sample of the vectors.

Candidates are compared by recall and by work, which is computed from counted operations; measured time only decides
whether a latency limit is kept. So the same sample gives the same choice on a busy machine. Of the held-out queries one
half chooses nprobe and the other half measures.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from index.ivf.distance import merge_top_k
from index.ivf.faiss_io import (
    POINTS_PER_LIST,
    TrainedIVF,
    check_single_faiss_wheel,
    choose_factory,
    train_ivf,
    write_inverted_lists,
    write_trained_index,
)
from index.ivf.gpu import knn
from index.ivf.sharded_ivf import ShardedIVF
from index.tuning.choice import OperatingPoint, TuningLimits
from index.tuning.nprobe import RECALL_K, SCORE_TOLERANCE

RESCORE_DEPTHS = (50, 100, 200, 400)  # rows
TIMED_QUERIES, BATCH = 32, 64  # queries timed one at a time, and in one batch
# Cost model in ns, fitted to 50,000 x 512 vectors: geometric mean of single queries and batches of 64, on a busy core,
# faiss 1.15. Rescored rows are read at random and converted to float32; RaBitQ builds a lookup table per probed list.
NS_PER_CENTROID_BYTE = 0.042
NS_PER_LIST = 1100.0
NS_PER_TABLE_BYTE = 2.2  # per byte of a float32 vector and probed list
NS_PER_RESCORED_BYTE = 1.1
NS_PER_CODE_BYTE = {"SQfp16": 0.10, "SQ8": 0.23}
NS_PER_FAST_SCAN_BYTE = 0.05
KEY_BYTES = 8
PQ_CENTROIDS = 16  # per sub-quantizer of a 4-bit code


class ArrayVectors:
    """float16 vectors whose keys are their positions."""

    def __init__(self, vectors: np.ndarray):
        self._vectors = vectors

    def get(self, keys: np.ndarray) -> np.ndarray:
        """Return the (m, d) vectors of (m,) positions."""
        return self._vectors[keys]


def candidate_configs(rows: int, dim: int) -> list[tuple[int, str, tuple[int, ...]]]:
    """List (nlist, factory, rescoring depths): exact float16, PQ of 2 bits per number, SQ8, RaBitQ and PQ of 1 bit."""
    default_nlist = int(choose_factory("{nlist}", None, rows, dim))
    configs: list[tuple[int, str, tuple[int, ...]]] = [(1, "IVF1,SQfp16", (0,))]
    if dim % 2 == 0 and rows >= POINTS_PER_LIST * PQ_CENTROIDS:
        configs.append((1, f"IVF1,PQ{dim // 2}x4fs", RESCORE_DEPTHS))
    for nlist in (default_nlist // 4, default_nlist // 2, default_nlist, 2 * default_nlist):
        if nlist < 2 or nlist * POINTS_PER_LIST > 2 * rows:
            continue
        if nlist >= default_nlist:
            configs.append((nlist, f"IVF{nlist},SQ8", (0,)))
        configs.append((nlist, f"IVF{nlist},RaBitQfs", RESCORE_DEPTHS))
        if dim % 4 == 0:
            configs.append((nlist, f"IVF{nlist},PQ{dim // 4}x4fs", RESCORE_DEPTHS))
    return configs


def measure_candidates(
    vectors: np.ndarray,
    queries: Mapping[str, np.ndarray],
    limits: TuningLimits,
    rows: int | None = None,
    seed: int = 0,
) -> list[OperatingPoint]:
    """Measure every candidate with each kind of query.

    The nprobe is the smallest that reaches the minimum recall.

    Candidates that never reach it are measured with every list probed.

    Args:
        vectors: (n, d) float32 unit vectors, a random sample of those to be indexed, without the queries.
        queries: By kind, (q, d) float32, q at least 2.
        rows: Full number of rows: memory and work are computed for it, times are scaled in proportion. None: n.

    Raises:
        ValueError: There are too few vectors or queries.
        ImportError: Two FAISS wheels are installed.
    """
    check_single_faiss_wheel()
    if len(vectors) < RECALL_K or any(len(array) < 2 for array in queries.values()):
        counts = ", ".join(f"{len(array)} {kind} queries" for kind, array in queries.items())
        raise ValueError(
            f"{len(vectors)} vectors and {counts} are too few. Pass at least {RECALL_K} vectors and 2 queries per kind."
        )
    query_sets = {kind: _QuerySet(vectors, array, seed) for kind, array in queries.items()}
    points: list[OperatingPoint] = []
    centroids: dict[int, np.ndarray] = {}
    with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
        for nlist, factory, depths in candidate_configs(len(vectors), vectors.shape[1]):
            index = train_ivf(factory, vectors, seed, centroids.get(nlist))
            centroids.setdefault(nlist, index.quantizer.reconstruct_n(0, nlist))
            trial = _Trial(Path(folder), factory, index, vectors, rows or len(vectors))
            for kind, query_set in query_sets.items():
                points += trial.measure(kind, query_set, depths, limits.min_recall)
    return points


class _QuerySet:
    """One kind of query, split into a tuning and a test half.

    It has the exact score of each query's tenth result.
    """

    def __init__(self, vectors: np.ndarray, queries: np.ndarray, seed: int):
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(queries))
        self.halves = [np.ascontiguousarray(queries[order[start::2]], np.float32) for start in (0, 1)]
        self._vectors = vectors
        self._kth = [knn(half, vectors, RECALL_K)[0][:, -1] for half in self.halves]

    def recalls(self, half: int, lists: ShardedIVF, nprobe: int, depths: Sequence[int]) -> list[float]:
        """Return recall@10 for each rescoring depth, by score as in `recall_by_score`.

        One search is enough: the candidates of a smaller depth are the first ones of the greatest depth.
        """
        queries = self.halves[half]
        scores, keys = lists.search_codes(queries, min(lists.ntotal, max(RECALL_K, *depths)), nprobe)
        if max(depths):
            scores = lists.rescore(queries, keys)
        return [
            self._recall(half, *merge_top_k(scores[:, : depth or RECALL_K], keys[:, : depth or RECALL_K], RECALL_K)[1:])
            for depth in depths
        ]

    def _recall(self, half: int, keys: np.ndarray) -> float:
        exact_scores = np.einsum("qd,qkd->qk", self.halves[half], self._vectors[keys])
        return float(np.mean((exact_scores >= self._kth[half][:, None] - SCORE_TOLERANCE) & (keys >= 0)))


class _Trial:
    """One factory, trained and filled with the sample."""

    def __init__(self, folder: Path, factory: str, index: TrainedIVF, vectors: np.ndarray, rows: int):
        self._factory, self._rows, self._dim = factory, rows, vectors.shape[1]
        self._code_bytes = index.code_size
        write_trained_index(index, folder / "trained-index")
        write_inverted_lists(folder / "trained-index", folder / "lists", [(np.arange(len(vectors)), vectors)])
        stored = ArrayVectors(vectors.astype(np.float16))
        self._lists = ShardedIVF(folder / "trained-index", [folder / "lists"], vectors=stored)
        self._quantizer = index.quantizer
        self._list_sizes = np.bincount(index.quantizer.assign(vectors, 1).ravel(), minlength=index.nlist)

    def measure(
        self, kind: str, query_set: _QuerySet, depths: Sequence[int], min_recall: float
    ) -> list[OperatingPoint]:
        """Return one point per rescoring depth."""
        chosen = self._choose_nprobe(query_set, depths, min_recall)
        return [self._make_point(kind, query_set, depth, *chosen[depth]) for depth in depths]

    def _make_point(self, kind: str, query_set: _QuerySet, depth: int, nprobe: int, recall: float) -> OperatingPoint:
        nlist, dim, queries = self._lists.nlist, self._dim, query_set.halves[0]
        sample_work, work = (self._work_us(queries, nprobe, depth, rows) for rows in (self._lists.ntotal, self._rows))
        times = (seconds * work / sample_work for seconds in self._time_queries(queries, nprobe, depth))
        latency, cpu_single, cpu_batch = times
        row_bytes = self._code_bytes + KEY_BYTES + (2 * dim + KEY_BYTES) * bool(depth)  # depth: float16 vectors too
        return OperatingPoint(
            query_kind=kind,
            factory=self._factory,
            nlist=nlist,
            nprobe=nprobe,
            rescore=depth,
            recall=recall,
            test_recall=query_set.recalls(1, self._lists, nprobe, [depth])[0],
            work_us=work,
            memory_bytes=self._rows * row_bytes + 4 * dim * nlist * self._list_growth(self._rows),
            latency_s=latency,
            cpu_s_single=cpu_single,
            cpu_s_batch=cpu_batch,
        )

    def _list_growth(self, rows: int) -> int:
        """Return how many times the lists of the sample there are at `rows` rows.

        A single list only gets longer.
        """
        return 1 if self._lists.nlist == 1 else max(1, round(rows / self._lists.ntotal))

    def _work_us(self, queries: np.ndarray, nprobe: int, depth: int, rows: int) -> float:
        """Return us per query by the cost model, with more lists, or with one longer list."""
        vector_bytes, code = 4 * self._dim, self._factory.split(",")[1]
        length_growth = rows / self._lists.ntotal if self._lists.nlist == 1 else 1.0
        rows_scanned = length_growth * float(self._list_sizes[self._quantizer.assign(queries, nprobe)].sum(1).mean())
        scan = rows_scanned * (self._code_bytes + KEY_BYTES) * NS_PER_CODE_BYTE.get(code, NS_PER_FAST_SCAN_BYTE)
        probes = nprobe * (NS_PER_LIST + NS_PER_TABLE_BYTE * vector_bytes * ("RaBitQ" in code))
        centroids = NS_PER_CENTROID_BYTE * vector_bytes * self._lists.nlist * self._list_growth(rows)
        return 1e-3 * (centroids + probes + scan + NS_PER_RESCORED_BYTE * vector_bytes / 2 * depth)

    def _choose_nprobe(
        self, query_set: _QuerySet, depths: Sequence[int], min_recall: float
    ) -> dict[int, tuple[int, float]]:
        """Return (nprobe, recall) by depth.

        The nprobe is the first of 1, 2, 3, 4, 6, 8, 12... that reaches the recall, else all lists.
        """
        chosen: dict[int, tuple[int, float]] = {}
        for nprobe in _iter_nprobes(self._lists.nlist):
            remaining = [depth for depth in depths if depth not in chosen]
            recalls = query_set.recalls(0, self._lists, nprobe, remaining) if remaining else []
            for depth, recall in zip(remaining, recalls, strict=True):
                if recall >= min_recall or nprobe == self._lists.nlist:
                    chosen[depth] = nprobe, recall
        return chosen

    def _time_queries(self, queries: np.ndarray, nprobe: int, depth: int) -> tuple[float, float, float]:
        """Time searches in seconds per query.

        Returns:
            Median wall time of single queries; CPU time of single queries; CPU time in a batch of up to `BATCH`.
        """

        def search(subset: np.ndarray) -> None:
            self._lists.search(subset, RECALL_K, nprobe, rescore=depth)

        single, batch, seconds = queries[:TIMED_QUERIES], queries[:BATCH], []
        cpu_start = time.process_time()
        for query in single:
            seconds.append(-time.perf_counter())
            search(query[None])
            seconds[-1] += time.perf_counter()
        cpu_middle = time.process_time()
        search(batch)
        cpu_end = time.process_time()
        cpu_single, cpu_batch = (cpu_middle - cpu_start) / len(single), (cpu_end - cpu_middle) / len(batch)
        return float(np.median(seconds)), cpu_single, cpu_batch


def _iter_nprobes(nlist: int) -> Iterator[int]:
    step = 1
    while step < nlist:
        yield step
        if step > 1 and step * 3 // 2 < nlist:
            yield step * 3 // 2
        step *= 2
    yield nlist
