"""Shards searched as one index: mapped lists, one coarse search, one heap, and rescoring by whole vectors.

A shard file is what `faiss.write_InvertedLists` writes; it is mapped into memory and searched with the coarse
assignment made once, so N shards give the ids and scores of one big index. faiss's own IndexShardsIVF drops the
selector (facebookresearch/faiss#5584), hence the fan-out here.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np

from index.ivf.distance import float16_to_float32, merge_top_k
from index.versions.objects import RECOVERY_HINT

SELECTIVE_FRACTION = 0.1  # filters that keep less than this part probe every list: kept rows may lie in any of them
EXACT_FILTER_ROWS = 1024  # so many kept rows are all rescored: whatever the codes make of them, the answer is exact
BLOCK = 16_384  # vectors rescored at a time: 32 MiB of 1,024 float16
PARAMETERS = 16  # sets of search parameters that are kept: one costs as much to make as a list does to search


class VectorSource(Protocol):
    """Where rescoring reads from."""

    def get(self, keys: np.ndarray) -> np.ndarray:
        """(m, d) vectors, float16 or float32, of the (m,) int64 `keys`, in their order."""


class ShardedIVF:
    """The shards of one collection, mapped and ready to search; safe to share between threads.

    Raises ValueError naming a file that faiss cannot open.

    dead     (m,) int64 keys that the shards hold and that are never answered; a mapped list cannot remove them
    vectors  the whole vectors under the same keys, for `search(..., rescore=)`
    """

    def __init__(
        self,
        template: Path,
        shards: Sequence[Path],
        dead: np.ndarray | None = None,
        vectors: VectorSource | None = None,
    ):
        self._head = faiss.read_index(str(template))
        self._quantizer = self._head.quantizer
        self.nlist: int = self._head.nlist
        self.dim: int = self._head.d
        shell = faiss.read_index(str(template))
        # Children are copied from a template without centroids and borrow the head's: centroids are in memory once.
        # contrib.ivf_tools.replace_ivf_quantizer does that too, but breaks SWIG's type table in faiss 1.15.
        shell.quantizer.reset()
        blank = faiss.serialize_index(shell)
        self._children = _joined([self._child(blank, path) for path in shards])
        self.dead = np.unique(np.asarray([] if dead is None else dead, np.int64))
        self._listed = faiss.IDSelectorBatch(self.dead)
        living = faiss.IDSelectorNot(self._listed) if len(self.dead) else None
        # Parameters go with the call: a shared index whose nprobe a request changes is a race.
        self._usual = lru_cache(PARAMETERS)(partial(_parameters, living))
        self._vectors = vectors
        self.ntotal: int = sum(child.ntotal for child in self._children) - len(self.dead)

    def _child(self, blank: np.ndarray, path: Path) -> faiss.IndexIVF:
        child = faiss.deserialize_index(blank)
        child.own_fields = False
        child.quantizer = self._quantizer
        lists = _mapped(path, child)
        lists.this.disown()  # the child frees them
        child.ntotal = lists.compute_ntotal()
        return child

    def search(
        self, queries: np.ndarray, k: int, nprobe: int, allowed_keys: np.ndarray | None = None, rescore: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores (q, k') float32 and keys (q, k') int64 of (q, d) float32 queries; -1 where there is no k-th.

        k' = min(k, living rows, kept keys). `keep` (m,) int64: answer with these keys only. A query that finds fewer
        than k' rows in its `nprobe` lists is asked again over all lists, so k' rows come wherever they exist.

        `rescore`: take so many rows by their codes and give back the best k' by their whole vectors, with those scores;
        0 leaves the scores of the codes. A filter that keeps at most `FEW` rows has all of them rescored. Raises
        ValueError if there are no vectors to rescore with.
        """
        if rescore and self._vectors is None:
            raise ValueError(f"rescore is {rescore}, but this index keeps no whole vectors; ask with rescore 0.")
        if allowed_keys is not None:
            allowed_keys = np.setdiff1d(np.asarray(allowed_keys, np.int64), self.dead)
        most = self.ntotal if allowed_keys is None else min(self.ntotal, len(allowed_keys))
        k = min(k, most)
        if not k or not len(queries):
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        if allowed_keys is not None and len(allowed_keys) < SELECTIVE_FRACTION * self.ntotal:
            nprobe = self.nlist
        depth = k
        if rescore:
            depth = min(
                most,
                max(
                    k,
                    rescore,
                    EXACT_FILTER_ROWS if allowed_keys is not None and len(allowed_keys) <= EXACT_FILTER_ROWS else 0,
                ),
            )
        nprobe = min(nprobe, self.nlist)
        queries = np.ascontiguousarray(queries, np.float32)
        scores, keys = self.search_codes(queries, depth, nprobe, allowed_keys)
        short = keys[:, k - 1] < 0
        if short.any() and nprobe < self.nlist:
            scores[short], keys[short] = self.search_codes(queries[short], depth, self.nlist, allowed_keys)
        return merge_top_k(self.rescore(queries, keys) if rescore else scores, keys, k)

    def rescore(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """(q, depth) float32 inner products with the whole vectors of `keys`; the lowest float32 for -1."""
        scores = np.full(keys.shape, np.finfo(np.float32).min, np.float32)
        step = max(1, BLOCK // keys.shape[1])
        for start in range(0, len(queries), step):
            there = keys[start : start + step] >= 0  # what was not found comes last
            vectors, begin = self._vectors.get(keys[start : start + step][there]), 0
            for i, count in enumerate(there.sum(axis=1).tolist(), start):
                scores[i, :count] = float16_to_float32(vectors[begin : begin + count]) @ queries[i]
                begin += count
        return scores

    def search_codes(
        self, queries: np.ndarray, k: int, nprobe: int, keep: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and keys (q, k) of the best by their codes in the `nprobe` nearest lists; -1 where there are fewer."""
        near, lists = self._quantizer.search(queries, nprobe)  # (q, nprobe) each
        parameters = self._usual(nprobe) if keep is None else _parameters(faiss.IDSelectorBatch(keep), nprobe)
        found = [_search_child(child, queries, k, lists, near, parameters) for child in self._children]
        if len(found) == 1:
            return found[0]
        scores, keys = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return merge_top_k(scores, keys, k)


def _parameters(selector: faiss.IDSelector | None, nprobe: int) -> faiss.SearchParametersIVF:
    return faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)


def _joined(children: list[faiss.IndexIVF]) -> list[faiss.IndexIVF]:
    """The same rows in one, where faiss maps no lists but reads them (fast-scan codes).

    They are in memory anyway, and a query's tables, which cost more than the rows of a short list, are made once.
    """
    if len(children) < 2 or not isinstance(children[0], faiss.IndexIVFFastScan):
        return children
    for child in children:
        child.init_code_packer()
    for child in children[1:]:
        children[0].merge_from(child, 0)
    return children[:1]


def _search_child(
    child: faiss.IndexIVF,
    queries: np.ndarray,
    k: int,
    lists: np.ndarray,
    near: np.ndarray,
    parameters: faiss.SearchParametersIVF,
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.empty((len(queries), k), np.float32)
    keys = np.empty((len(queries), k), np.int64)
    pointer = faiss.swig_ptr
    # The wrapped search_preassigned asserts that there are no parameters; the C one takes them (positionally).
    child.search_preassigned_c(
        len(queries),
        pointer(queries),
        k,
        pointer(lists),
        pointer(near),
        pointer(scores),
        pointer(keys),
        False,
        parameters,
    )
    return scores, keys


def _mapped(path: Path, into: faiss.IndexIVF | None = None) -> faiss.InvertedLists:
    """The lists of a file, put into an index. Raises ValueError naming a file that faiss cannot open."""
    try:
        lists = faiss.read_InvertedLists(faiss.FileIOReader(str(path)), faiss.IO_FLAG_MMAP)
        if into is not None:
            into.replace_invlists(lists, True)
        return lists
    except (RuntimeError, MemoryError) as error:  # faiss's own, and of a size that was made up
        raise ValueError(f"{path} holds no lists that faiss can open: {error}. {RECOVERY_HINT}") from error


def read_list_keys(path: Path) -> np.ndarray:
    """(n,) int64 keys of every entry of a shard's lists, sorted; one that is there twice comes twice."""
    lists = _mapped(path)
    found = [
        faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy()
        for i in range(lists.nlist)
        if lists.list_size(i)
    ]
    return np.sort(np.concatenate([np.empty(0, np.int64), *found]))
