"""Ask a published version: vectors in, hits with their metadata out."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Collection as Ids
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from index.ivf.deleted_keys import read_deleted_keys
from index.ivf.distance import check_unit_norm
from index.ivf.faiss_io import check_single_faiss_wheel
from index.ivf.sharded_ivf import ShardedIVF
from index.ivf.vectors import MappedVectors
from index.metadata.filters import CAPTION, parse_filter
from index.metadata.lookup import MetadataLookup
from index.versions.folder import check_objects, manifest_path
from index.versions.manifest import CollectionManifest, Manifest
from index.versions.objects import check_object, object_path
from index.versions.reader_lock import ReaderLock, lock_manifest

EXACT_FILTER_ROWS = (
    1024  # rows: a filter that keeps no more, or this part of all, is answered from the whole vectors, exactly
)
FEW_PART = 0.02
FILTERS = 8  # whose rows are remembered


class IndexHit(NamedTuple):
    """One answer."""

    id: str
    score: float  # inner product of unit vectors, -1 to 1
    metadata: dict[str, Any]  # metadata: kind, id, image_id, text, path, split, width, height, source, key


@dataclass(frozen=True)
class OpenCollection:
    """One collection of an open version."""

    manifest: CollectionManifest
    rows: MetadataLookup
    vectors: MappedVectors
    deleted_keys: np.ndarray  # (m,) int64 keys, sorted, that shards hold and that are never answered
    open_lists: Callable[[], ShardedIVF]

    @cached_property
    def lists(self) -> ShardedIVF:
        """Opened when they are first asked for: joining fast-scan codes takes time and memory."""
        return self.open_lists()


class Index:
    """One version, opened; safe to share between threads. What is published later is seen by opening again.

    root, path  the folder of the index, and the manifest of this version (which a candidate does not have yet)
    manifest    what that file says
    """

    def __init__(self, root: Path, manifest: Manifest, held: ReaderLock | None = None, lazy: bool = False):
        """Open a version whose objects are there, as `Index.open` does it; `held` is closed with it."""
        check_single_faiss_wheel()
        self._held = held
        self.root, self.path = Path(root), manifest_path(root, manifest.version)
        self.manifest: dict[str, Any] = manifest.as_dict()
        self.version, self.kinds = manifest.version, tuple(manifest.collections)
        check_objects(self.root, manifest, content=False)
        self._collections = {kind: self._opened(kind, about) for kind, about in manifest.collections.items()}
        if not lazy:
            for collection in self._collections.values():
                _ = collection.lists  # what cannot be opened is an error now
        # A version does not change. Not of a method: what is remembered would keep the index from going.
        self._chosen = lru_cache(FILTERS)(partial(_choose, self._collections))

    @classmethod
    def open(cls, root: Path, version: int | None = None, lazy: bool = False) -> "Index":
        """Open `version` under `root` (default: the one CURRENT names); `lazy`: its lists when they are asked.

        Checked here: the manifest's hash, all sizes, and the hashes of the look-ups, the dead keys and the centroids;
        lists and vectors are mapped, not read (`verify` reads them). Raises FileNotFoundError if nothing is published
        or a file is missing, ValueError if one is damaged or foreign, ImportError if two faiss wheels are installed.
        """
        root = Path(root)
        manifest, held = lock_manifest(root, version)
        try:
            return cls(root, manifest, held, lazy)
        except BaseException:  # also Ctrl-C: nobody is left who would let go of it; the error goes on
            held.close()
            raise

    def _opened(self, kind: str, about: CollectionManifest) -> OpenCollection:
        whole = lambda ref, what: check_object(self.root, ref, f"{kind} {what}", rehash=False)  # noqa: E731
        path = lambda ref: object_path(self.root, ref)  # noqa: E731
        dead = read_deleted_keys(self.root, about.deleted)
        bases = next((i for i, shard in enumerate(about.shards) if shard.role != "base"), len(about.shards))
        vectors = MappedVectors([path(shard.vectors) for shard in about.shards], about.dim, bases)
        template, lists = whole(about.trained_index, "template"), [path(shard.inverted_lists) for shard in about.shards]
        opening = partial(ShardedIVF, template, lists, dead=dead if len(dead) else None, vectors=vectors)
        lookups = [whole(shard.lookup, f"lookup of shard {i}") for i, shard in enumerate(about.shards)]
        rows = MetadataLookup(lookups, dead, bases)
        return OpenCollection(about, rows, vectors, dead, opening)

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the version, which may then be collected; what is mapped goes with the object."""
        if self._held is not None:
            self._held.close()
        self._chosen.cache_clear()
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
    ) -> list[list[IndexHit]]:
        """The best `k` items of `kind` for each of (q, d) unit vectors, highest score first.

        nprobe  lists to look into; default: what the build measured
        keep    answer with these ids only; ids that are not in the index are passed over
        rescore rows found by their codes that are rescored by their whole vectors; default: what the build was told
        where   answer with the rows that this filter over their metadata takes (`index.where`), such as
                "split = 'test' and width >= 640"

        Where `keep` and `where` leave few rows these are searched exactly, by their whole vectors; where the lists hold
        fewer than k, all lists are searched: k hits come wherever k exist.

        Equal scores come in the order of their 64-bit keys. Raises ValueError on an unknown kind, a wrong dimension,
        a query that is not a finite vector of unit length, or a filter that is wrong.
        """
        collection = self.collection(kind)
        array, dim = np.asarray(queries, np.float32), collection.lists.dim
        if array.ndim != 2 or array.shape[1] != dim:
            raise ValueError(
                f"queries have shape {array.shape}, the index in {self.root} has vectors of {dim} numbers; "
                "give (q, d), embedded by the model that the index was built with."
            )
        for name, value, least in (("k", k, 1), ("nprobe", nprobe, 1), ("rescore", rescore, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; ask for {least} or more.")
        check_unit_norm(array, "query, row", range(len(array)))
        kept = None if allowed_ids is None else collection.rows.keys(list(allowed_ids))
        if where is not None:
            taken = self._chosen(kind, where)
            kept = taken if kept is None else np.intersect1d(kept, taken, assume_unique=True)
        if kept is not None and len(kept) <= max(EXACT_FILTER_ROWS, FEW_PART * collection.lists.ntotal):
            return self._hits(collection.rows, *collection.vectors.search(array, k, kept))
        usual = collection.manifest.search
        probes, depth = usual.nprobe if nprobe is None else nprobe, usual.rescore if rescore is None else rescore
        return self._hits(collection.rows, *collection.lists.search(array, k, probes, kept, depth))

    def get_metadata(self, names: Iterable[str], kind: str = "image") -> dict[str, dict[str, Any]]:
        """{id: metadata row} of those of the ids `names` that are in the index."""
        return self.collection(kind).rows.by_id(list(names))

    def get_image_metadata(self, kind: str, image_id: str) -> list[dict[str, Any]]:
        """Metadata rows of the items of `kind` that belong to one image, such as its captions, by id."""
        return self.collection(kind).rows.find_by_image(image_id)

    def collection(self, kind: str) -> OpenCollection:
        """Lists, rows and vectors of one collection. Raises ValueError for an unknown kind."""
        if kind not in self._collections:
            raise ValueError(f"{self.path} has no {kind!r} collection; it has {', '.join(self.kinds)}.")
        return self._collections[kind]

    def count_matching(self, where: str, kind: str = "image") -> int:
        """How many items of `kind` a filter takes. Raises ValueError if it is wrong."""
        self.collection(kind)
        return len(self._chosen(kind, where))

    @staticmethod
    def _hits(lookup: MetadataLookup, scores: np.ndarray, keys: np.ndarray) -> list[list[IndexHit]]:
        lines = keys.tolist()
        rows = lookup.by_key(list({key for line in lines for key in line if key >= 0}))  # -1: fewer than k exist
        return [
            [IndexHit(rows[key]["id"], score, rows[key]) for score, key in zip(some, line, strict=True) if key >= 0]
            for some, line in zip(scores.tolist(), lines, strict=True)
        ]


def _choose(collections: Mapping[str, OpenCollection], kind: str, where: str) -> np.ndarray:
    """(m,) int64 keys, sorted, of the living rows of a kind that a filter takes."""
    told = collections.get(CAPTION)
    condition, values = parse_filter(where).sql(kind, told.rows.find_image_ids if told else lambda *_: ())
    return collections[kind].rows.find_keys(condition, values)
