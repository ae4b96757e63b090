"""Which code, how many lists, how many of them to probe, how deep to rescore: measured on a sample, then chosen.

Every choice is made by recall and by work, which is counted; time decides only whether a limit on it is kept. So the
same sample gives the same choice on a busy machine. Queries are held out: half of them choose, half judge.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import faiss
import numpy as np

from index.ivf.distance import merge_top_k
from index.ivf.faiss_io import (
    POINTS_PER_LIST,
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

RESCORE_DEPTHS = (50, 100, 200, 400)  # rows rescored
TIMED, BATCH = 32, 64  # queries one at a time, and at once
# What is counted costs so many ns: fitted to 50,000 x 512, the geometric mean of one query and of 64 at a time, on a
# busy core, faiss 1.15. Rows that are rescored lie anywhere and are widened; RaBitQ makes a table a list it probes.
CENTROID, LIST, TABLE, RESCORED = 0.042, 1100.0, 2.2, 1.1  # a byte; a list; a byte of a float32 vector, a list; a byte
SCANNED = {"SQfp16": 0.10, "SQ8": 0.23}  # a byte of a code
FAST = 0.05  # of a fast-scan code


class ArrayVectors:
    """float16 vectors whose keys are their places."""

    def __init__(self, vectors: np.ndarray):
        self._vectors = vectors

    def get(self, keys: np.ndarray) -> np.ndarray:
        """(m, d) vectors of the (m,) places."""
        return self._vectors[keys]


def candidate_configs(rows: int, dim: int) -> list[tuple[int, str, tuple[int, ...]]]:
    """(nlist, factory, depths of rescoring) to try: exact float16, SQ8, then RaBitQ and PQ, fast-scan.

    Fast-scan codes in fewer lists than usual too: one list costs them as much as hundreds of rows.
    """
    usual = int(choose_factory("{nlist}", None, rows, dim))
    steps: list[tuple[int, str, tuple[int, ...]]] = [(1, "IVF1,SQfp16", (0,))]
    for nlist in (usual // 4, usual // 2, usual, 2 * usual):
        if nlist < 2 or nlist * POINTS_PER_LIST > 2 * rows:
            continue
        if nlist >= usual:
            steps.append((nlist, f"IVF{nlist},SQ8", (0,)))
        steps.append((nlist, f"IVF{nlist},RaBitQfs", RESCORE_DEPTHS))
        if dim % 4 == 0:
            steps.append((nlist, f"IVF{nlist},PQ{dim // 4}x4fs", RESCORE_DEPTHS))
    return steps


def measure_candidates(
    vectors: np.ndarray, queries: Mapping[str, np.ndarray], wanted: TuningLimits, rows: int | None = None, seed: int = 0
) -> list[OperatingPoint]:
    """Every step of the ladder with each kind of query, at the smallest nprobe that gives the wanted recall, if any.

    vectors  (n, d) float32 unit vectors, a random sample of what is to be indexed; none of the queries among them
    queries  by kind, (q, d) float32, two or more
    rows     how many there will be (default: n): memory and work are theirs, and times are the sample's in proportion

    Steps that never reach the recall come with every list probed. Raises ValueError if there is too little to measure,
    ImportError if two faiss wheels are installed.
    """
    check_single_faiss_wheel()
    if len(vectors) < RECALL_K or any(len(asked) < 2 for asked in queries.values()):
        told = ", ".join(f"{len(asked)} {kind} queries" for kind, asked in queries.items())
        raise ValueError(
            f"{len(vectors)} vectors and {told} are too few; give {RECALL_K} vectors and 2 queries of a kind."
        )
    halves = {kind: _Halves(vectors, asked, seed) for kind, asked in queries.items()}
    points, centroids = [], {}
    with tempfile.TemporaryDirectory(prefix="ladder-") as folder:
        for nlist, factory, depths in candidate_configs(len(vectors), vectors.shape[1]):
            index = train_ivf(factory, vectors, seed, centroids.get(nlist))
            centroids.setdefault(nlist, index.quantizer.reconstruct_n(0, nlist))
            trial = _Trial(Path(folder), factory, index, vectors, rows or len(vectors))
            points += [point for kind, half in halves.items() for point in trial.points(kind, half, depths, wanted)]
    return points


class _Halves:
    """One kind of query, in a half that chooses and a half that judges, with the true score of the 10th."""

    def __init__(self, vectors: np.ndarray, queries: np.ndarray, seed: int):
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(queries))
        self.halves = [np.ascontiguousarray(queries[order[start::2]], np.float32) for start in (0, 1)]
        self._vectors = vectors
        self._kth = [knn(half, vectors, RECALL_K)[0][:, -1] for half in self.halves]

    def recalls(self, half: int, lists: ShardedIVF, nprobe: int, depths: Sequence[int]) -> list[float]:
        """Of each depth, by true score as in `index.tune`: of two equal vectors either is right.

        One search for all: the best so many by their codes are the first of the best of the greatest depth.
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
        true = np.einsum("qd,qkd->qk", self.halves[half], self._vectors[keys])
        return float(np.mean((true >= self._kth[half][:, None] - SCORE_TOLERANCE) & (keys >= 0)))


class _Trial:
    """One factory over the sample."""

    def __init__(self, folder: Path, factory: str, index: faiss.IndexIVF, vectors: np.ndarray, rows: int):
        self._factory, self._rows, self._dim = factory, rows, vectors.shape[1]
        self._code = index.code_size
        write_trained_index(index, folder / "template")
        write_inverted_lists(folder / "template", folder / "lists", [(np.arange(len(vectors)), vectors)])
        self._lists = ShardedIVF(
            folder / "template", [folder / "lists"], vectors=ArrayVectors(vectors.astype(np.float16))
        )
        self._quantizer = index.quantizer
        self._sizes = np.bincount(index.quantizer.assign(vectors, 1).ravel(), minlength=index.nlist)

    def points(self, kind: str, half: _Halves, depths: Sequence[int], wanted: TuningLimits) -> list[OperatingPoint]:
        """One a depth."""
        chosen = self._chosen(half, depths, wanted.min_recall)
        return [self._point(kind, half, depth, *chosen[depth]) for depth in depths]

    def _point(self, kind: str, half: _Halves, depth: int, nprobe: int, recall: float) -> OperatingPoint:
        nlist, dim = self._lists.nlist, self._dim
        sampled, work = (self._work(half.halves[0], nprobe, depth, rows) for rows in (self._lists.ntotal, self._rows))
        latency, single, together = (took * work / sampled for took in self._times(half.halves[0], nprobe, depth))
        return OperatingPoint(
            query_kind=kind,
            factory=self._factory,
            nlist=nlist,
            nprobe=nprobe,
            rescore=depth,
            recall=recall,
            test_recall=half.recalls(1, self._lists, nprobe, [depth])[0],
            work_us=work,
            memory_bytes=self._rows * (self._code + 8 + (2 * dim + 8) * bool(depth))  # 8: the key
            + 4 * dim * nlist * self._more(self._rows),
            latency_s=latency,
            cpu_s_single=single,
            cpu_s_batch=together,
        )

    def _more(self, rows: int) -> int:
        """How many times the sample's lists there will be; a single list stays one, and grows."""
        return 1 if self._lists.nlist == 1 else max(1, round(rows / self._lists.ntotal))

    def _work(self, queries: np.ndarray, nprobe: int, depth: int, rows: int) -> float:
        """us a query, counted, over so many rows: more lists as long as the sample's, or the one, longer."""
        whole, code, grown = 4 * self._dim, self._factory.split(",")[1], self._more(rows)
        longer = rows / self._lists.ntotal if self._lists.nlist == 1 else 1.0
        read = longer * float(self._sizes[self._quantizer.assign(queries, nprobe)].sum(1).mean())
        scanned = read * (self._code + 8) * SCANNED.get(code, FAST)
        tables = nprobe * (LIST + TABLE * whole * ("RaBitQ" in code))
        return 1e-3 * (CENTROID * whole * self._lists.nlist * grown + tables + scanned + RESCORED * whole / 2 * depth)

    def _chosen(self, half: _Halves, depths: Sequence[int], target: float) -> dict[int, tuple[int, float]]:
        """Of each depth the first of 1, 2, 3, 4, 6, 8, 12... lists that gives the target, else all, and its recall."""
        found: dict[int, tuple[int, float]] = {}
        for nprobe in _probes(self._lists.nlist):
            left = [depth for depth in depths if depth not in found]
            recalls = half.recalls(0, self._lists, nprobe, left) if left else []
            for depth, recall in zip(left, recalls, strict=True):
                if recall >= target or nprobe == self._lists.nlist:
                    found[depth] = nprobe, recall
        return found

    def _times(self, queries: np.ndarray, nprobe: int, depth: int) -> tuple[float, float, float]:
        """Seconds a query: the median of one at a time; of CPU, one at a time; of CPU, up to `BATCH` at once."""
        ask = lambda some: self._lists.search(some, RECALL_K, nprobe, rescore=depth)  # noqa: E731
        alone, batch, clocks = queries[:TIMED], queries[:BATCH], []
        start = time.process_time()
        for query in alone:
            clocks.append(-time.perf_counter())
            ask(query[None])
            clocks[-1] += time.perf_counter()
        middle = time.process_time()
        ask(batch)
        end = time.process_time()
        return float(np.median(clocks)), (middle - start) / len(alone), (end - middle) / len(batch)


def _probes(nlist: int) -> Iterator[int]:
    step = 1
    while step < nlist:
        yield step
        if step > 1 and step * 3 // 2 < nlist:
            yield step * 3 // 2
        step *= 2
    yield nlist
