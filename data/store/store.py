"""The reading half of a store: rows by id, out of the shards straight into one array.

It can be pickled, and used from threads and forked or spawned workers; a compaction does not disturb an open store.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.io.digests import digest
from data.manifest.manifest import manifest_fields, read_store_manifest
from data.manifest.schema import Field
from data.store.reader import ShardReader
from data.store.shard_file import check_metadata_crc
from data.store.verify import verify_store


class Store:
    """A feature or vector store as its manifest stood when it was opened (a generation: later ones are not seen).

    Raises FileNotFoundError if there is no store, ValueError naming the shard if one is missing or does not fit.
    Holds one file descriptor a shard until it is closed or forgotten.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any] | None = None):
        self.folder = Path(folder)
        self.manifest, self._shards = _open(self.folder, manifest)
        self.kind: str = self.manifest["kind"]
        self.recipe: dict[str, Any] = self.manifest["recipe"]
        self.generation: int = self.manifest["generation"]
        self.fields: dict[str, Field] = manifest_fields(self.manifest)
        filled = [shard for shard in self._shards if shard.ids]
        if len({shard.row_shape("features") for shard in filled}) > 1:
            raise ValueError(
                f"{self.folder}: shards hold features of different widths; delete the folder and extract again."
            )
        self._tails = {n: filled[0].row_shape(n) if filled else () for n, f in self.fields.items() if f.per == "row"}
        self._index(filled)

    def _index(self, filled: list[ShardReader]) -> None:
        """Every row of every shard by the number of its item, superseded ones too; `_place` has the living."""
        none = [np.zeros(0, "int64")]
        self._filled = filled
        self._shard = np.repeat(np.arange(len(filled)), [len(shard.ids) for shard in filled])
        self._start = np.concatenate([shard.offsets[:-1] for shard in filled] or none)
        self._rows = np.concatenate([np.diff(shard.offsets) for shard in filled] or none)
        self._crc32 = np.concatenate([shard.crc32 for shard in filled] or none)
        self._hashes = [value for shard in filled for value in shard.hashes]
        self._per_item = {
            name: np.concatenate([shard.per_item[name] for shard in filled] or none).astype(field.dtype)
            for name, field in self.fields.items()
            if field.per == "item"
        }
        names = (name for shard in filled for name in shard.ids)
        self._place = {name: number for number, name in enumerate(names)}
        for name in [*self.invalid_items, *self.manifest["removed_ids"]]:  # old rows are not its content any more
            self._place.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["manifest"])  # type: ignore[misc]

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file descriptors back now, and not when the store is forgotten."""
        for shard in self._shards:
            shard.close()

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
        if not self._filled:
            raise ValueError(f"{self.folder}: the store is empty; run the stage that fills it.")
        return self._tails["features"][0]

    @property
    def invalid_items(self) -> dict[str, str]:
        """Id -> reason of the items that could not be extracted."""
        gone = set(self.manifest["removed_ids"])
        return {entry["id"]: entry["reason"] for entry in self.manifest["invalid_items"] if entry["id"] not in gone}

    def _numbers(self, ids: Sequence[str]) -> np.ndarray:
        """(n,) number of each id's item. Raises ValueError naming the first that is not here."""
        try:
            return np.fromiter(map(self._place.__getitem__, ids), "int64", len(ids))
        except KeyError as error:
            name = error.args[0]
            gone = "it was removed from the dataset" if name in self.manifest["removed_ids"] else ""
            hint = gone or self.invalid_items.get(name, "it was never extracted: run `tern extract`")
            raise ValueError(f"{name!r} is not in the store {self.folder}: {hint}.") from None

    def content_hashes(self, ids: Sequence[str]) -> list[str]:
        """Content hash of what each item was extracted from."""
        return [self._hashes[number] for number in self._numbers(ids)]

    def checksums(self, ids: Sequence[str]) -> np.ndarray:
        """(n,) uint32: the CRC that each item's rows were written with."""
        return self._crc32[self._numbers(ids)]

    def shard_path(self, name: str) -> Path:
        """The shard that an item's rows stand in."""
        return self._filled[self._shard[self._numbers([name])[0]]].path

    def content_digest(self, ids: Sequence[str]) -> str:
        """Digest of recipe and content of these items, in this order: what depends on them is named by it."""
        return digest([self.recipe, list(zip(ids, self.content_hashes(ids), strict=True))])

    def lengths(self, ids: Sequence[str]) -> np.ndarray:
        """(n,) int64: rows of each item."""
        return self._rows[self._numbers(ids)]

    def read(self, field: str, ids: Sequence[str]) -> np.ndarray:
        """Values of one field for `ids`, in their order.

        A per-row field gives (sum of lengths, ...): the rows of the items one after another; a per-item field (n, ...).
        """
        numbers = self._checked(field, ids)
        if field in self._per_item:
            return self._per_item[field][numbers]
        rows = self._rows[numbers]
        ends = np.cumsum(rows)
        out = np.empty((int(rows.sum()), *self._tails[field]), self.fields[field].dtype)
        self._read_into(field, numbers, ends - rows, out)
        return out

    def read_padded(
        self, field: str, ids: Sequence[str], out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A per-row field as a rectangle, read into its place: ((n, longest, ...), lengths (n,) int64).

        Zeros stand behind the rows of each item. `out`: a contiguous array to fill, (n, longest or more, ...) of the
        field's dtype. Raises ValueError if it does not fit, or if the field has one value an item.
        """
        numbers = self._checked(field, ids)
        if field in self._per_item:
            raise ValueError(f"{field} has one value an item: read it with `read`.")
        lengths = self._rows[numbers]
        longest, tail, dtype = int(lengths.max(initial=0)), self._tails[field], np.dtype(self.fields[field].dtype)
        if out is None:
            out = np.empty((len(ids), longest, *tail), dtype)
        fits = out.ndim == 2 + len(tail) and len(out) == len(ids) and out.shape[1] >= longest and out.shape[2:] == tail
        if not fits or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"`out` is {out.dtype} {out.shape}; {dtype} of ({len(ids)}, {longest} or more, *{tail}), contiguous, "
                "is needed."
            )
        wide = out.shape[1]
        for number in np.flatnonzero(lengths < wide):
            out[number, lengths[number] :] = 0
        self._read_into(field, numbers, np.arange(len(ids)) * wide, out.reshape(-1, *tail))
        return out, lengths

    def _checked(self, field: str, ids: Sequence[str]) -> np.ndarray:
        if field not in self.fields:
            raise ValueError(f"{self.folder} has no field {field!r}; it has {', '.join(self.fields)}.")
        return self._numbers(ids)

    def _read_into(self, field: str, numbers: np.ndarray, to: np.ndarray, out: np.ndarray) -> None:
        """Rows of the items into `out` (rows, ...) from row `to` on; in the order of the files, neighbors at once."""
        order = np.lexsort((self._start[numbers], self._shard[numbers]))
        numbers, to = numbers[order], to[order]
        shard, start, rows = self._shard[numbers], self._start[numbers], self._rows[numbers]
        follows = (shard[1:] == shard[:-1]) & (start[1:] == (start + rows)[:-1]) & (to[1:] == (to + rows)[:-1])
        first = np.flatnonzero(np.concatenate([[True], ~follows])) if len(numbers) else np.zeros(0, "int64")
        joined = np.add.reduceat(rows, first) if len(first) else rows
        segments = list(zip(start[first].tolist(), joined.tolist(), to[first].tolist(), strict=True))
        edges = np.searchsorted(shard[first], np.arange(len(self._filled) + 1))
        begun = []
        for reader, a, b in zip(self._filled, edges[:-1], edges[1:], strict=True):
            if a < b:
                begun.append((reader, reader.start_read(field, segments[a:b], out)))
        for reader, requests in begun:
            reader.finish_read(requests)

    def preload(self) -> None:
        """Bring the shards into the system's memory, in order: for a store that fits there and will be read again."""
        for shard in self._shards:
            shard.preload()

    def verify(self) -> list[str]:
        """Every difference between the files and what was written, naming file and item; empty if there is none."""
        return verify_store(self.folder, self.manifest)


def _open(folder: Path, manifest: dict[str, Any] | None) -> tuple[dict[str, Any], list[ShardReader]]:
    """A manifest and its open shards. A compaction may remove files after their names were read: then once more."""
    given = manifest or read_store_manifest(folder)
    try:
        return given, _readers(folder, given)
    except FileNotFoundError as error:
        now = read_store_manifest(folder)["generation"]
        if now == given["generation"]:
            raise
        if manifest is None:
            return _open(folder, None)
        raise FileNotFoundError(
            f"{folder}: generation {given['generation']} was compacted away, it is now at {now}; open the store again."
        ) from error


def _readers(folder: Path, manifest: dict[str, Any]) -> list[ShardReader]:
    fields, found = manifest_fields(manifest), []
    for entry in manifest["shards"]:
        check_metadata_crc(folder / entry["file"], entry)
        reader = ShardReader(folder / entry["file"], fields)
        about = {"items": len(reader.ids), "rows": int(reader.offsets[-1]), "bytes": reader.bytes}
        if any(entry[key] != value for key, value in about.items()):
            raise ValueError(
                f"{reader.path} is not the file that the manifest lists; restore it, or delete the store's folder."
            )
        found.append(reader)
    return found
