"""Search the shards of a collection as one IVF index: mapped lists, one coarse search, rescoring.

A shard file is what `faiss.write_InvertedLists` writes. It is memory-mapped and searched with a coarse assignment that
is computed once, so N shards give the ids and scores of one large index. FAISS's own IndexShardsIVF ignores the id
selector (facebookresearch/faiss#5584), therefore the shards are searched and merged here.

Shapes: q queries, d dimensions, k results.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np

from index.ivf.distance import float16_to_float32, merge_top_k
from index.versions.objects import RECOVERY_HINT

SELECTIVE_FRACTION = 0.1  # a filter that keeps a smaller share of the rows probes every list
EXACT_FILTER_ROWS = 1024  # up to this number of filtered rows all are rescored, so that the result is exact
BLOCK = 16_384  # vectors rescored at a time: 32 MiB of 1,024 float16
PARAMETERS = 16  # cached sets of search parameters: creating one costs as much as searching a list


class VectorSource(Protocol):
    """Where rescoring reads the uncompressed vectors."""

    def get(self, keys: np.ndarray) -> np.ndarray:
        """Return the (m, d) vectors, float16 or float32, of (m,) int64 keys, in their order."""


class ShardedIVF:
    """The shards of one collection, mapped; safe to share between threads.

    Args:
        trained_index: File of the trained, empty index.
        shards: Files of inverted lists.
        deleted_keys: (m,) int64 keys that are in the shards but are never returned (a mapped list cannot remove them).
        vectors: Uncompressed vectors under the same keys, for rescoring; None: rescoring is not possible.

    Raises:
        ValueError: FAISS cannot open a file; the message names it.
    """

    def __init__(
        self,
        trained_index: Path,
        shards: Sequence[Path],
        deleted_keys: np.ndarray | None = None,
        vectors: VectorSource | None = None,
    ):
        self._trained_index = faiss.read_index(str(trained_index))
        self._quantizer = self._trained_index.quantizer
        self.nlist: int = self._trained_index.nlist
        self.dim: int = self._trained_index.d
        shell = faiss.read_index(str(trained_index))
        # Children are copies without centroids that borrow the quantizer, so the centroids are in memory once.
        # contrib.ivf_tools.replace_ivf_quantizer does the same, but breaks SWIG's type table in faiss 1.15.
        shell.quantizer.reset()
        blank = faiss.serialize_index(shell)
        self._children = _merge_shards([self._open_shard(blank, path) for path in shards])
        # Without deleted keys, `np.unique` would import numpy.ma for nothing.
        self._deleted_keys = (
            np.empty(0, np.int64) if deleted_keys is None else np.unique(np.asarray(deleted_keys, np.int64))
        )
        # An attribute, because faiss keeps only a pointer to it.
        self._deleted_selector = faiss.IDSelectorBatch(self._deleted_keys)
        live_selector = faiss.IDSelectorNot(self._deleted_selector) if len(self._deleted_keys) else None
        # Parameters are passed per call: changing nprobe of a shared index would be a race.
        self._default_parameters = lru_cache(PARAMETERS)(partial(_make_parameters, live_selector))
        self._vectors = vectors
        self.ntotal: int = sum(child.ntotal for child in self._children) - len(self._deleted_keys)
        """number of live rows"""

    def _open_shard(self, blank: np.ndarray, path: Path) -> faiss.IndexIVF:
        child = faiss.deserialize_index(blank)
        child.own_fields = False
        child.quantizer = self._quantizer
        lists = _map_lists(path, child)
        lists.this.disown()  # the child frees them
        child.ntotal = lists.compute_ntotal()
        return child

    def search(
        self, queries: np.ndarray, k: int, nprobe: int, allowed_keys: np.ndarray | None = None, rescore: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best k live rows for each query.

        A query whose `nprobe` lists have fewer than k' rows is repeated over all lists.

        Args:
            queries: (q, d) float32.
            nprobe: Number of lists to probe.
            allowed_keys: (m,) int64; return only these keys; None: all.
            rescore: Number of best rows by code that are rescored with their uncompressed vectors; up to
                `EXACT_FILTER_ROWS` allowed keys are all rescored. 0: return the scores of the codes.

        Returns:
            Scores (q, k') float32, highest first, and keys (q, k') int64; k' = min(k, live rows, allowed keys).

        Raises:
            ValueError: `rescore` is not 0, but there are no uncompressed vectors.
        """
        if rescore and self._vectors is None:
            raise ValueError(f"rescore is {rescore}, but this index has no uncompressed vectors. Pass rescore=0.")
        if allowed_keys is not None:
            allowed_keys = np.setdiff1d(np.asarray(allowed_keys, np.int64), self._deleted_keys)
        num_allowed = self.ntotal if allowed_keys is None else min(self.ntotal, len(allowed_keys))
        k = min(k, num_allowed)
        if not k or not len(queries):
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        if allowed_keys is not None and len(allowed_keys) < SELECTIVE_FRACTION * self.ntotal:
            nprobe = self.nlist  # the allowed rows may be in any list
        depth = k
        if rescore:
            is_exact = allowed_keys is not None and len(allowed_keys) <= EXACT_FILTER_ROWS
            depth = min(num_allowed, max(k, rescore, EXACT_FILTER_ROWS if is_exact else 0))
        nprobe = min(nprobe, self.nlist)
        queries = np.ascontiguousarray(queries, np.float32)
        scores, keys = self.search_codes(queries, depth, nprobe, allowed_keys)  # (q, depth) each
        short = keys[:, k - 1] < 0
        if short.any() and nprobe < self.nlist:
            scores[short], keys[short] = self.search_codes(queries[short], depth, self.nlist, allowed_keys)
        return merge_top_k(self.rescore(queries, keys) if rescore else scores, keys, k)

    def rescore(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Return (q, depth) float32 inner products with the vectors of `keys`; the lowest float32 for key -1."""
        if self._vectors is None:
            raise ValueError("This index has no uncompressed vectors to rescore with. Pass rescore=0.")
        scores = np.full(keys.shape, np.finfo(np.float32).min, np.float32)
        step = max(1, BLOCK // keys.shape[1])
        for start in range(0, len(queries), step):
            exists = keys[start : start + step] >= 0  # the missing rows of a query are last
            vectors, begin = self._vectors.get(keys[start : start + step][exists]), 0
            for i, count in enumerate(exists.sum(axis=1).tolist(), start):
                scores[i, :count] = float16_to_float32(vectors[begin : begin + count]) @ queries[i]
                begin += count
        return scores

    def search_codes(
        self, queries: np.ndarray, k: int, nprobe: int, allowed_keys: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best rows by code in the lists nearest to each query.

        Args:
            queries: (q, d) float32.
            k: Number of results per query.
            nprobe: Number of lists to probe.
            allowed_keys: (m,) int64; return only these keys; None: all live rows.

        Returns:
            Scores (q, k) float32, highest first, and keys (q, k) int64; key -1 where rows run out.
        """
        distances, lists = self._quantizer.search(queries, nprobe)  # (q, nprobe) each
        if allowed_keys is None:
            parameters = self._default_parameters(nprobe)
        else:
            parameters = _make_parameters(faiss.IDSelectorBatch(allowed_keys), nprobe)
        results = [_search_shard(child, queries, k, lists, distances, parameters) for child in self._children]
        if len(results) == 1:
            return results[0]
        scores, keys = (np.concatenate(parts, axis=1) for parts in zip(*results, strict=True))  # (q, shards * k)
        return merge_top_k(scores, keys, k)


def _make_parameters(selector: faiss.IDSelector | None, nprobe: int) -> faiss.SearchParametersIVF:
    return faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)


def _merge_shards(children: list[faiss.IndexIVF]) -> list[faiss.IndexIVF]:
    """Merge the shards if FAISS does not map their lists but reads them (fast-scan codes).

    Their lists are in memory anyway, and the lookup tables of a query, which cost more than a short list, are computed
    once instead of once per shard.
    """
    if len(children) < 2 or not isinstance(children[0], faiss.IndexIVFFastScan):
        return children
    for child in children:
        child.init_code_packer()
    for child in children[1:]:
        children[0].merge_from(child, 0)
    return children[:1]


def _search_shard(
    child: faiss.IndexIVF,
    queries: np.ndarray,
    k: int,
    lists: np.ndarray,
    distances: np.ndarray,
    parameters: faiss.SearchParametersIVF,
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.empty((len(queries), k), np.float32)
    keys = np.empty((len(queries), k), np.int64)
    pointer = faiss.swig_ptr
    # The Python wrapper of search_preassigned asserts that there are no parameters; the C function accepts them.
    child.search_preassigned_c(
        len(queries),
        pointer(queries),
        k,
        pointer(lists),
        pointer(distances),
        pointer(scores),
        pointer(keys),
        False,
        parameters,
    )
    return scores, keys


def _map_lists(path: Path, index: faiss.IndexIVF | None = None) -> faiss.InvertedLists:
    """Map the lists of a file, and put them into `index`.

    Raises:
        ValueError: FAISS cannot open the file.
    """
    try:
        lists = faiss.read_InvertedLists(faiss.FileIOReader(str(path)), faiss.IO_FLAG_MMAP)
        if index is not None:
            index.replace_invlists(lists, True)
        return lists
    except (RuntimeError, MemoryError) as error:  # MemoryError: the file contains an impossible size
        raise ValueError(f"FAISS cannot open the inverted lists in {path}: {error}. {RECOVERY_HINT}") from error


def read_list_keys(path: Path) -> np.ndarray:
    """Return the (n,) int64 keys of all entries of a shard's lists, sorted.

    A key with two entries occurs twice.
    """
    lists = _map_lists(path)
    keys = [
        faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy()
        for i in range(lists.nlist)
        if lists.list_size(i)
    ]
    return np.sort(np.concatenate([np.empty(0, np.int64), *keys]))
