"""The reading half of a store: rows by id, from shards that are mapped into memory.

A reader holds no HDF5 handle: the small columns are read at once, the large ones are mapped read-only at their offset
in the file. So it can be pickled and used in forked or spawned workers, and the system shares the pages between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.files import digest, sha256_file
from data.shards import Field, damage, fields_of, open_shard, read_manifest


@dataclass(frozen=True)
class _Shard:
    ids: list[str]
    hashes: list[str]
    offsets: np.ndarray  # (items + 1,) int64, rows
    columns: dict[str, np.ndarray]  # mapped, read-only


class Store:
    """A feature or vector store as its manifest stood when it was opened (a generation: later ones are not seen).

    Raises FileNotFoundError if there is no store, ValueError naming the shard if one is missing or does not fit.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any] | None = None):
        self.folder = Path(folder)
        self.manifest = manifest or read_manifest(self.folder)
        self.kind: str = self.manifest["kind"]
        self.recipe: dict[str, Any] = self.manifest["recipe"]
        self.generation: int = self.manifest["generation"]
        self.fields: dict[str, Field] = fields_of(self.manifest)
        self._shards = [self._open(entry) for entry in self.manifest["shards"]]
        self._place = {name: (s, i) for s, shard in enumerate(self._shards) for i, name in enumerate(shard.ids)}
        for name in self.set_aside:  # it could be read once and no longer can: its old rows are not its content
            self._place.pop(name, None)
        if len({self._tail("features", shard) for shard in self._shards if shard.ids}) > 1:
            raise ValueError(
                f"{self.folder}: shards hold features of different widths; delete the folder and extract again."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["manifest"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, name: object) -> bool:
        return name in self._place

    @property
    def ids(self) -> list[str]:
        """Ids of the items, in the order of the shards; an item that was extracted again stands once."""
        return list(self._place)

    @property
    def dim(self) -> int:
        """Width of the features."""
        filled = [shard for shard in self._shards if shard.ids]
        if not filled:
            raise ValueError(f"{self.folder}: the store is empty; run the stage that fills it.")
        return self._tail("features", filled[0])[0]

    @property
    def set_aside(self) -> dict[str, str]:
        """Id -> reason of the items that could not be extracted."""
        return {entry["id"]: entry["reason"] for entry in self.manifest["set_aside"]}

    def places(self, ids: Sequence[str]) -> list[tuple[int, int]]:
        """(shard, position) of each id. Raises ValueError naming the first that is not here."""
        try:
            return [self._place[name] for name in ids]
        except KeyError as error:
            hint = self.set_aside.get(error.args[0], "it was never extracted: run `tern extract`")
            raise ValueError(f"{error.args[0]!r} is not in the store {self.folder}: {hint}.") from None

    def hashes(self, ids: Sequence[str]) -> list[str]:
        """Content hash of what each item was extracted from."""
        return [self._shards[s].hashes[i] for s, i in self.places(ids)]

    def content(self, ids: Sequence[str]) -> str:
        """Digest of recipe and content of these items, in this order: what depends on them is named by it."""
        return digest([self.recipe, list(zip(ids, self.hashes(ids), strict=True))])

    def lengths(self, ids: Sequence[str]) -> np.ndarray:
        """(n,) int64: rows of each item."""
        shards = self._shards
        spans = [shards[s].offsets[i + 1] - shards[s].offsets[i] for s, i in self.places(ids)]
        return np.array(spans, dtype="int64")

    def read(self, field: str, ids: Sequence[str]) -> np.ndarray:
        """Values of one field for `ids`, in their order.

        A per-row field gives (sum of lengths, ...): the rows of the items one after another; a per-item field (n, ...).
        """
        places = self.places(ids)
        if field not in self.fields:
            raise ValueError(f"{self.folder} has no field {field!r}; it has {', '.join(self.fields)}.")
        if not places:
            return np.empty((0,), self.fields[field].dtype)
        if self.fields[field].per == "item":
            return np.stack([self._shards[s].columns[field][i] for s, i in places])
        lengths = self.lengths(ids)
        ends = np.cumsum(lengths)
        out = np.empty((int(ends[-1]), *self._tail(field, self._shards[places[0][0]])), self.fields[field].dtype)
        for (s, i), end, length in zip(places, ends, lengths, strict=True):
            shard = self._shards[s]
            out[end - length : end] = shard.columns[field][shard.offsets[i] : shard.offsets[i + 1]]
        return out

    def verify(self) -> list[str]:
        """Every difference between the files and what was written, naming file and item; empty if there is none."""
        problems = []
        for entry in self.manifest["shards"]:
            path = self.folder / entry["file"]
            found = damage(path)
            if not found and sha256_file(path) != entry["sha256"]:
                found = [f"{path}: its bytes are not those that the manifest names"]
            problems.extend(found)
        return problems

    def _open(self, entry: dict[str, Any]) -> _Shard:
        path = self.folder / entry["file"]
        with open_shard(path) as file:
            try:
                ids, offsets = list(file["ids"].asstr()[:]), file["offsets"][:]
                hashes = [value.decode() for value in file["hashes"][:]]
                # One map a shard: a store of many shards must not hold a file descriptor for every column.
                whole = np.memmap(path, mode="r")
                columns = {name: _column(whole, file[name]) for name in self.fields}
            except (KeyError, OSError, ValueError) as error:
                raise ValueError(f"{path} is damaged ({error}); restore it, or delete the store's folder.") from error
        if len(ids) != entry["items"] or offsets[-1] != entry["rows"] or path.stat().st_size != entry["bytes"]:
            raise ValueError(
                f"{path} is not the file that the manifest lists; restore it, or delete the store's folder."
            )
        return _Shard(ids, hashes, offsets, columns)

    @staticmethod
    def _tail(field: str, shard: _Shard) -> tuple[int, ...]:
        return shard.columns[field].shape[1:]


def _column(whole: np.ndarray, dataset: h5py.Dataset) -> np.ndarray:
    """A dataset's values as a view of the mapped file."""
    offset = dataset.id.get_offset()
    if offset is None or dataset.size == 0:  # nothing is stored for an empty dataset
        return dataset[...]
    # A plain array: indexing a memmap object costs microseconds a row.
    values = np.asarray(whole)[offset : offset + dataset.nbytes]
    return values.view(dataset.dtype).reshape(dataset.shape)
