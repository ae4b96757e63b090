"""Uncompressed vectors on disk under sorted keys, for rescoring, exact search, export and rebuilding.

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
NO_KEYS = np.empty(0, KEY_DTYPE)
BLOCK_ROWS = 512  # rows compared at a time: as float32 they fit in the cache of a core


def is_in_sorted(keys: np.ndarray, sorted_keys: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which keys are in `sorted_keys` (ascending).

    `np.isin` would sort both at each call.
    """
    if not len(sorted_keys):
        return np.zeros(len(keys), bool)
    return sorted_keys.take(sorted_keys.searchsorted(keys), mode="clip") == keys


def write_vectors(path: Path, keys: np.ndarray, dim: int, blocks: Iterable[np.ndarray]) -> None:
    """Write keys and their vectors into one file.

    Args:
        path: File to write.
        keys: (n,) integers, ascending.
        dim: Numbers per vector.
        blocks: Blocks (m, dim) of the n vectors in the order of the keys; they are stored as float16.
    """
    with open(path, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(keys, KEY_DTYPE), allow_pickle=False)
        header = {"descr": VECTOR_DTYPE.str, "fortran_order": False, "shape": (len(keys), dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, VECTOR_DTYPE).tobytes())


def map_array(path: Path, file: BinaryIO, dtype: np.dtype, num_dims: int) -> np.ndarray:
    """Map the next .npy array of a file; nothing is unpickled."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"{path} is not a file of vectors: it has an array of .npy version {version}, not (1, 0).")
    shape, fortran, file_dtype = np.lib.format.read_array_header_1_0(file)
    if file_dtype != dtype or fortran or len(shape) != num_dims:
        raise ValueError(f"{path} is not a file of vectors: it has an array {file_dtype} {shape}, not {dtype}.")
    start = file.tell()
    file.seek(start + dtype.itemsize * int(np.prod(shape)))
    if not shape[0]:
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(path, dtype, "r", start, shape))  # still mapped, without the overhead of np.memmap


class ShardVectors:
    """The vectors of one shard, mapped."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            self.keys = map_array(path, file, KEY_DTYPE, 1)
            self.vectors = map_array(path, file, VECTOR_DTYPE, 2)

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look up (m,) keys.

        Returns:
            (m, d) float16 vectors, and (m,) bool whether this shard has the key; the vectors of others are undefined.
        """
        if not len(self.keys):
            return np.zeros((len(keys), self.vectors.shape[1]), VECTOR_DTYPE), np.zeros(len(keys), bool)
        positions = self.keys.searchsorted(keys)  # one past the end for keys above the last, hence "clip"
        return self.vectors.take(positions, axis=0, mode="clip"), self.keys.take(positions, mode="clip") == keys

    def blocks(self, deleted_keys: np.ndarray = NO_KEYS, size: int = BLOCK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield keys (m,) int64 and vectors (m, d) float16 of the rows that are not deleted, in their order."""
        for start in range(0, len(self.keys), size):
            keys, vectors = self.keys[start : start + size], self.vectors[start : start + size]
            deleted = is_in_sorted(keys, deleted_keys)
            yield (keys[~deleted], vectors[~deleted]) if deleted.any() else (keys, vectors)


class MappedVectors:
    """The vectors of all shards of a collection; safe to share between threads.

    Args:
        paths: Files of the shards, base shards first.
        num_base_shards: Base shard i has the keys with `key % num_base_shards == i`: a key is looked for there first,
            then in every shard.
    """

    def __init__(self, paths: Sequence[Path], dim: int, num_base_shards: int = 0):
        self.shards, self.dim, self._num_base_shards = [ShardVectors(path) for path in paths], dim, num_base_shards

    def get(self, keys: np.ndarray) -> np.ndarray:
        """Return the (m, d) float16 vectors of (m,) int64 keys, in their order.

        Raises:
            KeyError: No shard has a key.
        """
        if self._num_base_shards < 2:
            return self._get_from_any(keys)
        shard_numbers = keys % self._num_base_shards
        order = shard_numbers.argsort(kind="stable")
        ends = shard_numbers[order].searchsorted(np.arange(1, self._num_base_shards)).tolist()
        vectors, found = np.empty((len(keys), self.dim), VECTOR_DTYPE), np.empty(len(keys), bool)
        for shard, begin, end in zip(self.shards, [0, *ends], [*ends, len(keys)], strict=False):
            positions = order[begin:end]
            vectors[positions], found[positions] = shard.find(keys[positions])
        if not found.all():
            vectors[~found] = self._get_from_any(keys[~found])
        return vectors

    def _get_from_any(self, keys: np.ndarray) -> np.ndarray:
        """As `get`, for keys that may be in any shard."""
        vectors, missing = np.empty((len(keys), self.dim), VECTOR_DTYPE), np.arange(len(keys))
        for shard in self.shards:
            shard_vectors, found = shard.find(keys[missing])
            if len(missing) == len(keys) and found.all():
                return shard_vectors
            vectors[missing[found]] = shard_vectors[found]
            if not len(missing := missing[~found]):
                return vectors
        raise KeyError(f"no vector has the key {int(keys[missing][0])}: lists and vectors do not belong together")

    def search(self, queries: np.ndarray, k: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the best k of (m,) keys for each of (q, d) float32 queries, by all inner products.

        Returns:
            Scores (q, k') float32, highest first, and keys (q, k') int64, equal scores by lower key; k' = min(k, m).
        """
        scores, best_keys = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start in range(0, len(keys), BLOCK):
            block = keys[start : start + BLOCK]
            block_scores = queries @ self.get(block).T.astype(np.float32)  # (q, BLOCK)
            all_keys = np.hstack([best_keys, np.broadcast_to(block, block_scores.shape)])
            scores, best_keys = merge_top_k(np.hstack([scores, block_scores]), all_keys, k)
        return scores, best_keys

    def kth_score(self, queries: np.ndarray, k: int, deleted_keys: np.ndarray = NO_KEYS) -> np.ndarray:
        """Return the (q,) k-th best inner product of (q, d) float32 queries with all live rows.

        With fewer than k live rows it is the lowest one. Every row is read once, a block at a time.
        """
        scores = np.empty((len(queries), 0), np.float32)
        with threadpool_limits(1, "blas"):  # for products this small, two threads take four times the CPU time of one
            for shard in self.shards:
                for keys, vectors in shard.blocks(deleted_keys, BLOCK_ROWS):
                    if len(keys):
                        best = top_k_scores(queries, float16_to_float32(vectors), min(k, len(keys)))
                        scores = -np.sort(-np.hstack([scores, best]), axis=1)[:, :k]
        return scores[:, -1]
