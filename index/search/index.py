"""Open a version of an index and search it: vectors in, hits with metadata out."""

from collections.abc import Collection as Ids
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from data.alignment import RowVectors
from data.config import ColumnType
from index.ivf.distance import check_unit_norm
from index.ivf.faiss_io import check_single_faiss_wheel
from index.metadata.filters import CAPTION, parse_filter
from index.metadata.lookup import MetadataLookup, compute_filter_deadline
from index.metadata.schema import Row
from index.search.open_collection import OpenCollection, open_collection
from index.versions.folder import check_objects, manifest_path
from index.versions.manifest import Manifest
from index.versions.reader_lock import ReaderLock, lock_manifest

# A filter that keeps at most this number of rows, or this share of all, is searched exactly.
EXACT_FILTER_ROWS = 1024
EXACT_FILTER_FRACTION = 0.02
CACHED_FILTERS = 8  # filters whose keys are cached


class IndexHit(NamedTuple):
    """One result of a search."""

    id: str
    score: float
    """inner product of unit vectors, or the combined score of a search with row vectors; -1 to 1"""
    metadata: Row


class Index:
    """One version, opened; safe to share between threads. Open it again to see what is published later.

    Attributes:
        root: Folder of the index.
        path: Manifest of this version (a candidate does not have the file yet).
        manifest: Content of that file.
        version: Number of the version.
        kinds: Kinds of its collections.
    """

    def __init__(self, root: Path, manifest: Manifest, lock: ReaderLock | None = None, lazy: bool = False):
        """Open a version whose objects exist; see `Index.open`. `lock` is released by `close`."""
        check_single_faiss_wheel()
        self._reader_lock = lock
        self.root, self.path, self.manifest = Path(root), manifest_path(root, manifest.version), manifest
        self.version, self.kinds = manifest.version, tuple(manifest.collections)
        check_objects(self.root, manifest, content=False)
        parts = manifest.collections.items()
        self._collections = {kind: open_collection(self.root, kind, part) for kind, part in parts}
        if not lazy:
            for collection in self._collections.values():
                _ = collection.lists  # raises now if they cannot be opened
        # A version never changes, so keys of filters can be cached. The cache is not on a method: it would keep the
        # index alive.
        self._find_keys = lru_cache(CACHED_FILTERS)(partial(_find_filter_keys, self._collections, manifest.columns))

    @classmethod
    def open(cls, root: Path, version: int | None = None, lazy: bool = False) -> "Index":
        """Open a version.

        The hashes of the manifest, the lookups, the deleted keys and the trained index are verified, and all sizes;
        inverted lists and vectors are mapped but not read (`verify_version` reads them).

        Args:
            version: Number; None: the version that CURRENT names.
            lazy: Open the inverted lists at their first search.

        Raises:
            FileNotFoundError: Nothing is published, or a file is missing.
            ValueError: A file is damaged or of another index.
            ImportError: Two FAISS wheels are installed.
        """
        root = Path(root)
        manifest, lock = lock_manifest(root, version)
        try:
            return cls(root, manifest, lock, lazy)
        except BaseException:  # also KeyboardInterrupt: nothing else would release the lock
            lock.close()
            raise

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the version, which garbage collection may then delete; mapped files close with this object."""
        if self._reader_lock is not None:
            self._reader_lock.close()
        self._find_keys.cache_clear()
        for collection in self._collections.values():
            collection.rows.close()

    def search(
        self,
        queries: np.ndarray,
        k: int,
        kind: str = "image",
        nprobe: int | None = None,
        allowed_ids: Ids[str] | None = None,
        rescore: int | None = None,
        where: str | None = None,
        query_rows: RowVectors | None = None,
        rerank: int | None = None,
    ) -> list[list[IndexHit]]:
        """Find the best `k` items of `kind` for each query, highest score first, equal scores by 64-bit key.

        k hits are returned wherever k items exist: if the probed lists have fewer, all lists are searched. If
        `allowed_ids` and `where` leave few rows, these are searched exactly with their uncompressed vectors.

        With row vectors of queries and items, the best `rerank` hits of this global search are ordered by their
        combined scores. Later hits keep the order of the global search, and their score is the combined one too.

        Args:
            queries: (q, d) unit vectors.
            nprobe: Number of lists to probe; None: the number that the build chose.
            allowed_ids: Return only these ids; ids that are not in the index are ignored. None: all.
            rescore: Number of best rows by code that are rescored with their uncompressed vectors; None: the number
                that the build was configured with.
            where: Return only rows that match this filter (`index.metadata.filters`), such as
                "split = 'test' and width >= 640".
            query_rows: Row vectors of the q queries; None: the hits are not reranked.
            rerank: Number of hits that are reranked; 0: none; None: the number that the version was configured with.

        Raises:
            ValueError: The kind is unknown, the dimension is wrong, a query is not a finite unit vector, the row
                vectors do not belong to the queries, or the filter is not valid.
        """
        collection = self.collection(kind)
        array, dim = np.asarray(queries, np.float32), collection.lists.dim
        if array.ndim != 2 or array.shape[1] != dim:
            raise ValueError(
                f"The queries have shape {array.shape}, but the vectors in {self.root} have {dim} numbers. "
                "Pass (q, d) vectors of the model that the index was built with."
            )
        limits = (("k", k, 1), ("nprobe", nprobe, 1), ("rescore", rescore, 0), ("rerank", rerank, 0))
        for name, value, minimum in limits:
            if value is not None and value < minimum:
                raise ValueError(f"{name} is {value}. Pass {minimum} or more.")
        check_unit_norm(array, "query in row", range(len(array)))
        keys = None if allowed_ids is None else collection.rows.keys(list(allowed_ids))
        if where is not None:
            filter_keys = self._find_keys(kind, where)
            keys = filter_keys if keys is None else np.intersect1d(keys, filter_keys, assume_unique=True)
        if query_rows is not None and len(query_rows) != len(array):
            raise ValueError(f"There are row vectors of {len(query_rows)} queries for {len(array)} queries. Pass all.")
        reranking = collection.make_reranking(query_rows, rerank)
        depth = k if reranking is None else max(k, reranking.depth)
        if keys is not None and len(keys) <= max(EXACT_FILTER_ROWS, EXACT_FILTER_FRACTION * collection.lists.ntotal):
            scores, hit_keys = collection.vectors.search(array, depth, keys)
        else:
            scores, hit_keys = collection.search_lists(array, depth, keys, nprobe, rescore)
        if reranking is not None and collection.row_vectors is not None:
            scores, hit_keys = reranking.apply(scores, hit_keys, collection.row_vectors.get)
        return self._make_hits(collection.rows, scores[:, :k], hit_keys[:, :k])

    def get_metadata(self, ids: Iterable[str], kind: str = "image") -> dict[str, Row]:
        """Return the metadata rows of those ids that are in the index, by id."""
        return self.collection(kind).rows.by_id(list(ids))

    def get_image_metadata(self, kind: str, image_id: str) -> list[Row]:
        """Return the metadata rows of the items of `kind` that belong to one image, sorted by id."""
        return self.get_metadata_by_image(kind, [image_id])[image_id]

    def get_metadata_by_image(self, kind: str, image_ids: Sequence[str]) -> dict[str, list[Row]]:
        """Return the metadata rows of the items of `kind` that belong to images, by the id of the image."""
        return self.collection(kind).rows.find_by_images(image_ids)

    def find_by_content(self, content_hash: str, kind: str = "image") -> list[str]:
        """Return the ids of the items of `kind` whose vectors were computed from content of this hash."""
        rows = self.collection(kind).rows
        keys = rows.find_keys("content_hash = ?", [content_hash]).tolist()
        return sorted(row.id for row in rows.by_key(keys).values())

    def collection(self, kind: str) -> OpenCollection:
        """Return lists, rows and vectors of one collection.

        Raises:
            ValueError: The kind is unknown.
        """
        if kind not in self._collections:
            raise ValueError(f"{self.path} has no {kind!r} collection; it has {', '.join(self.kinds)}.")
        return self._collections[kind]

    def count_matching(self, where: str, kind: str = "image") -> int:
        """Return the number of items of `kind` that match a filter.

        Raises:
            ValueError: The filter is not valid.
        """
        self.collection(kind)
        return len(self._find_keys(kind, where))

    @staticmethod
    def _make_hits(lookup: MetadataLookup, scores: np.ndarray, keys: np.ndarray) -> list[list[IndexHit]]:
        keys_by_query = keys.tolist()
        rows = lookup.by_key(list({key for line in keys_by_query for key in line if key >= 0}))  # -1: fewer than k rows
        return [
            [IndexHit(rows[key].id, score, rows[key]) for score, key in zip(row_scores, line, strict=True) if key >= 0]
            for row_scores, line in zip(scores.tolist(), keys_by_query, strict=True)
        ]


def _find_filter_keys(
    collections: Mapping[str, OpenCollection], types: Mapping[str, ColumnType], kind: str, where: str
) -> np.ndarray:
    """Return the (m,) int64 keys, sorted, of the live rows of a kind that match a filter."""
    captions, deadline = collections.get(CAPTION), compute_filter_deadline()
    find_image_ids = partial(captions.rows.find_image_ids, deadline=deadline) if captions else lambda *_: ()
    condition, values = parse_filter(where, types).sql(kind, find_image_ids)
    return collections[kind].rows.find_keys(condition, values, deadline)
