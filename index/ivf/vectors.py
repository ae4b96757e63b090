"""Whole vectors on disk, under sorted keys: to rescore with, to search exactly, to export and to build from again.

A file is two .npy arrays, one after the other: keys (n,) int64, ascending, then vectors (n, d) float16.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from threadpoolctl import threadpool_limits

from index.ivf.distance import float16_to_float32, merge_top_k
from index.ivf.gpu import top_k_scores
from index.ivf.sharded_ivf import BLOCK

KEY_DTYPE, VECTOR_DTYPE = np.dtype("<i8"), np.dtype("<f2")
NONE = np.empty(0, KEY_DTYPE)
BLOCK_ROWS = 512  # rows that are compared at a time: as float32 they stay in the cache of a core


def is_in_sorted(keys: np.ndarray, some: np.ndarray) -> np.ndarray:
    """(n,) bool: which of the (n,) keys are among `some`, ascending; `np.isin` would sort both each time."""
    if not len(some):
        return np.zeros(len(keys), bool)
    return some.take(some.searchsorted(keys), mode="clip") == keys


def write_vectors(path: Path, keys: np.ndarray, dim: int, blocks: Iterable[np.ndarray]) -> None:
    """Write (n,) ascending keys, then blocks of (m, dim) vectors in their order."""
    with open(path, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(keys, KEY_DTYPE), allow_pickle=False)
        header = {"descr": VECTOR_DTYPE.str, "fortran_order": False, "shape": (len(keys), dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, VECTOR_DTYPE).tobytes())


def _mapped(path: Path, file: BinaryIO, dtype: np.dtype, dimensions: int) -> np.ndarray:
    """The next .npy array of a file, mapped; nothing is unpickled."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"{path} has an array of .npy version {version}, not (1, 0): it is no file of vectors.")
    shape, fortran, found = np.lib.format.read_array_header_1_0(file)
    if found != dtype or fortran or len(shape) != dimensions:
        raise ValueError(f"{path} has an array of {found} with shape {shape}, not {dtype}: it is no file of vectors.")
    start = file.tell()
    file.seek(start + dtype.itemsize * int(np.prod(shape)))
    if not shape[0]:
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(path, dtype, "r", start, shape))  # mapped still, without the cost of its class


class ShardVectors:
    """The vectors of one shard, mapped."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            self.keys = _mapped(path, file, KEY_DTYPE, 1)
            self.vectors = _mapped(path, file, VECTOR_DTYPE, 2)

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m, d) float16 vectors of the (m,) keys, and whether they are theirs: not of a key that this shard lacks."""
        if not len(self.keys):
            return np.zeros((len(keys), self.vectors.shape[1]), VECTOR_DTYPE), np.zeros(len(keys), bool)
        at = self.keys.searchsorted(keys)  # of keys behind the last the number of keys, hence "clip"
        return self.vectors.take(at, axis=0, mode="clip"), self.keys.take(at, mode="clip") == keys

    def blocks(self, dead: np.ndarray = NONE, size: int = BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Keys (m,) int64 and vectors (m, d) float16 of the rows that are not `dead` (ascending), in their order."""
        for start in range(0, len(self.keys), size):
            keys, vectors = self.keys[start : start + size], self.vectors[start : start + size]
            gone = is_in_sorted(keys, dead)
            yield (keys[~gone], vectors[~gone]) if gone.any() else (keys, vectors)


class MappedVectors:
    """The vectors of every shard of a collection; safe to share between threads.

    bases  so many shards come first, each with the keys that leave its number when divided by `bases`: where a key is
           looked for first, and then everywhere
    """

    def __init__(self, paths: Sequence[Path], dim: int, num_base_shards: int = 0):
        self.shards, self.dim, self._bases = [ShardVectors(path) for path in paths], dim, num_base_shards

    def get(self, keys: np.ndarray) -> np.ndarray:
        """(m, d) float16 vectors of the (m,) int64 keys, in their order. Raises KeyError for one that is nowhere."""
        if self._bases < 2:
            return self._anywhere(keys)
        home = keys % self._bases
        order = home.argsort(kind="stable")
        ends = home[order].searchsorted(np.arange(1, self._bases)).tolist()
        found, here = np.empty((len(keys), self.dim), VECTOR_DTYPE), np.empty(len(keys), bool)
        for shard, begin, end in zip(self.shards, [0, *ends], [*ends, len(keys)], strict=False):
            where = order[begin:end]
            found[where], here[where] = shard.find(keys[where])
        if not here.all():
            found[~here] = self._anywhere(keys[~here])
        return found

    def _anywhere(self, keys: np.ndarray) -> np.ndarray:
        """As `get`, of keys that may be in any shard."""
        found, left = np.empty((len(keys), self.dim), VECTOR_DTYPE), np.arange(len(keys))
        for shard in self.shards:
            vectors, here = shard.find(keys[left])
            if len(left) == len(keys) and here.all():
                return vectors
            found[left[here]] = vectors[here]
            if not len(left := left[~here]):
                return found
        raise KeyError(f"no vector has the key {int(keys[left][0])}: lists and vectors do not belong together")

    def search(self, queries: np.ndarray, k: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best k of the (m,) `keys` for each of (q, d) float32 queries, by every inner product.

        Returns scores (q, k') float32, highest first, and keys (q, k') int64, equal scores by lower key; k' is k or m.
        """
        scores, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start in range(0, len(keys), BLOCK):
            some = keys[start : start + BLOCK]
            more = queries @ self.get(some).T.astype(np.float32)  # (q, BLOCK)
            both = np.hstack([scores, more]), np.hstack([found, np.broadcast_to(some, more.shape)])
            scores, found = merge_top_k(*both, k)
        return scores, found

    def kth_score(self, queries: np.ndarray, k: int, dead: np.ndarray = NONE) -> np.ndarray:
        """(q,) the k-th best inner product of (q, d) float32 queries with all rows but the `dead`; of fewer, the last.

        Every row is read once, a block at a time.
        """
        scores = np.empty((len(queries), 0), np.float32)
        with threadpool_limits(1, "blas"):  # of products this small two threads wait for each other: four times the CPU
            for shard in self.shards:
                for keys, vectors in shard.blocks(dead, BLOCK_ROWS):
                    if len(keys):
                        found = top_k_scores(queries, float16_to_float32(vectors), min(k, len(keys)))
                        scores = -np.sort(-np.hstack([scores, found]), axis=1)[:, :k]
        return scores[:, -1]
