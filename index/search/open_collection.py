"""One collection of an open version: its files, mapped, and the two stages of a search."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from data.alignment import RowVectors
from index.ivf.deleted_keys import read_deleted_keys
from index.ivf.row_vectors import MappedRowVectors
from index.ivf.sharded_ivf import ShardedIVF
from index.ivf.vectors import MappedVectors
from index.metadata.lookup import MetadataLookup
from index.search.rerank import Reranking
from index.versions.manifest import CollectionManifest
from index.versions.objects import ObjectRef, check_object, object_path


@dataclass(frozen=True)
class OpenCollection:
    """One collection of an open version."""

    manifest: CollectionManifest
    rows: MetadataLookup
    vectors: MappedVectors
    row_vectors: MappedRowVectors | None
    """None if the version has none of this collection"""
    deleted_keys: np.ndarray
    """(m,) int64, sorted: rows that are in shards but never returned"""
    open_lists: Callable[[], ShardedIVF]

    @cached_property
    def lists(self) -> ShardedIVF:
        """The inverted lists, opened at first use: merging shards of fast-scan codes takes time and memory."""
        return self.open_lists()

    def search_lists(
        self,
        queries: np.ndarray,
        k: int,
        allowed_keys: np.ndarray | None = None,
        nprobe: int | None = None,
        rescore: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search the inverted lists; see `ShardedIVF.search`. None: the parameters of the version."""
        default = self.manifest.search
        nprobe, rescore = default.nprobe if nprobe is None else nprobe, default.rescore if rescore is None else rescore
        return self.lists.search(queries, k, nprobe, allowed_keys, rescore)

    def make_reranking(self, query_rows: RowVectors | None, depth: int | None = None) -> Reranking | None:
        """Return how hits are reranked; None if they are not.

        Args:
            query_rows: Row vectors of the queries; None: there are none.
            depth: Number of reranked hits; None: that of the version.

        Raises:
            ValueError: The row vectors are of another model.
        """
        alignment, depth = self.manifest.alignment, self.manifest.search.rerank if depth is None else depth
        if alignment is None or query_rows is None or not depth:
            return None
        if query_rows.dim != alignment.dim:
            raise ValueError(
                f"The row vectors of the queries have {query_rows.dim} numbers, those of the version {alignment.dim}. "
                "Pass row vectors of the model that the index was built with."
            )
        return Reranking(query_rows, alignment.alignment_weight, depth)


def open_collection(root: Path, kind: str, manifest: CollectionManifest) -> OpenCollection:
    """Open the files of a collection; lookups, deleted keys and the trained index are compared with their hashes."""

    def verify(ref: ObjectRef, name: str) -> Path:
        return check_object(root, ref, f"{kind} {name}", rehash=False)

    deleted_keys = read_deleted_keys(root, manifest.deleted)
    num_base_shards = sum(shard.role == "base" for shard in manifest.shards)
    vector_paths = [object_path(root, shard.vectors) for shard in manifest.shards]
    list_paths = [object_path(root, shard.inverted_lists) for shard in manifest.shards]
    row_paths = [object_path(root, shard.row_vectors) for shard in manifest.shards if shard.row_vectors is not None]
    vectors = MappedVectors(vector_paths, manifest.dim, num_base_shards)
    open_lists = partial(
        ShardedIVF,
        verify(manifest.trained_index, "trained index"),
        list_paths,
        deleted_keys=deleted_keys if len(deleted_keys) else None,
        vectors=vectors,
    )
    lookups = [verify(shard.lookup, f"lookup of shard {i}") for i, shard in enumerate(manifest.shards)]
    rows = MetadataLookup(lookups, deleted_keys, num_base_shards)
    row_vectors = MappedRowVectors(row_paths, manifest.alignment.dim) if manifest.alignment else None
    return OpenCollection(manifest, rows, vectors, row_vectors, deleted_keys, open_lists)
