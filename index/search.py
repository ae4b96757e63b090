"""Ask a published version: vectors in, hits with their metadata out."""

from collections.abc import Collection as Ids
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from index.collection import check_unit, keys_of
from index.metadata import LOOKUP, Lookup
from index.publish import check_hashes, read_manifest
from index.shards import Lists, one_wheel


@dataclass(frozen=True)
class Hit:
    """One answer."""

    id: str
    score: float  # inner product of unit vectors, -1 to 1
    row: dict[str, Any]  # metadata: kind, id, image_id, text, path, split, width, height, source, key


class Index:
    """One version, opened; safe to share between threads. What is published later is seen by opening again."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self.version: int = manifest["version"]
        self.kinds: tuple[str, ...] = tuple(manifest["collections"])
        self._lookup = Lookup(folder / LOOKUP)
        self._lists = {
            kind: Lists(folder / about["template"], [folder / entry["file"] for entry in about["shards"]])
            for kind, about in manifest["collections"].items()
        }

    @classmethod
    def open(cls, root: Path, version: int | None = None) -> "Index":
        """Open `version` under `root` (default: the one CURRENT names).

        Checked here: the manifest's hash, all sizes, and the hashes of the metadata look-up and the centroids; the
        lists are mapped, not read (`verify` reads them). Raises FileNotFoundError if nothing is published or a file
        is missing, ValueError if one is damaged or foreign, ImportError if two faiss wheels are installed.
        """
        one_wheel()
        folder, manifest = read_manifest(Path(root), version)
        small = [LOOKUP, *(about["template"] for about in manifest["collections"].values())]
        check_hashes(Path(root), folder, manifest, small)
        return cls(folder, manifest)

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the metadata file; the mapped lists go with the object."""
        self._lookup.close()

    def search(
        self,
        queries: np.ndarray,
        k: int,
        kind: str = "image",
        nprobe: int | None = None,
        keep: Ids[str] | None = None,
    ) -> list[list[Hit]]:
        """The best `k` items of `kind` for each of (q, d) unit vectors, highest score first.

        nprobe  lists to look into; default: what the build measured
        keep    answer with these ids only; ids that are not in the index are passed over. Few of them, or lists that
                hold fewer than k, are searched exhaustively: k hits come wherever k exist.

        Equal scores come in the order of their 64-bit keys. Raises ValueError on an unknown kind, a wrong dimension,
        or a query that is not a finite vector of unit length.
        """
        lists = self._collection(kind)
        array = np.asarray(queries, np.float32)
        if array.ndim != 2 or array.shape[1] != lists.dim:
            raise ValueError(
                f"queries have shape {array.shape}, the index in {self.folder} has vectors of {lists.dim} numbers; "
                "give (q, d), embedded by the model that the index was built with."
            )
        for name, value in (("k", k), ("nprobe", nprobe)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; ask for 1 or more.")
        check_unit(array, "query, row", range(len(array)))
        kept = None if keep is None else np.unique(keys_of(kind, list(keep)))
        probes = self.manifest["collections"][kind]["nprobe"] if nprobe is None else nprobe
        scores, keys = lists.search(array, k, probes, kept)
        return self._hits(scores, keys)

    def rows(self, names: Iterable[str], kind: str = "image") -> dict[str, dict[str, Any]]:
        """{id: metadata row} of those of the ids `names` that are in the index."""
        self._collection(kind)
        return self._lookup.by_id(kind, list(names))

    def rows_of_image(self, kind: str, image_id: str) -> list[dict[str, Any]]:
        """Metadata rows of the items of `kind` that belong to one image, such as its captions, by id."""
        self._collection(kind)
        return self._lookup.of_image(kind, image_id)

    def _collection(self, kind: str) -> Lists:
        if kind not in self._lists:
            raise ValueError(f"{self.folder} holds no {kind!r} collection; it holds {', '.join(self.kinds)}.")
        return self._lists[kind]

    def _hits(self, scores: np.ndarray, keys: np.ndarray) -> list[list[Hit]]:
        rows = self._lookup.by_key([key for key in np.unique(keys).tolist() if key >= 0])
        return [
            [
                Hit(rows[key]["id"], score, rows[key])
                for score, key in zip(some_scores, some_keys, strict=True)
                if key >= 0  # -1: fewer than k exist
            ]
            for some_scores, some_keys in zip(scores.tolist(), keys.tolist(), strict=True)
        ]
