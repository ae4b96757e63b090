"""Read a store: rows by id, from the shards directly into one array.

A store can be pickled, and used from threads and from forked or spawned workers. A compaction does not affect an open
store.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.io.digests import digest
from data.manifest.manifest import StoreManifest, read_store_manifest
from data.manifest.schema import Field, Kind, Recipe
from data.store.reader import ShardReader
from data.store.shard_file import RESTORE_HINT, check_metadata_crc
from data.store.verify import verify_store


class Store:
    """A feature or vector store in the generation in which it was opened; later commits are not visible.

    Holds one file descriptor per shard until it is closed or garbage collected.

    Args:
        folder: Folder of the store.
        manifest: Generation to open; None opens the present one.

    Raises:
        FileNotFoundError: There is no store, a shard is missing, or the generation was compacted.
        ValueError: The manifest or a shard is damaged; the message has the file.
    """

    def __init__(self, folder: Path, manifest: StoreManifest | None = None):
        self.folder = Path(folder)
        self.manifest, self._shards = _open_shards(self.folder, manifest)
        self.kind: Kind = self.manifest.kind
        self.recipe: Recipe = self.manifest.recipe
        self.generation: int = self.manifest.generation
        self.fields: dict[str, Field] = self.manifest.fields()
        filled = [shard for shard in self._shards if shard.ids]
        if len({shard.row_shape("features") for shard in filled}) > 1:
            raise ValueError(
                f"{self.folder} has shards with features of different dimensions. Delete the folder and extract again."
            )
        self._row_shapes = {
            name: filled[0].row_shape(name) if filled else ()
            for name, field in self.fields.items()
            if field.per == "row"
        }
        self._build_index(filled)

    def _build_index(self, filled: list[ShardReader]) -> None:
        """Number all items of all shards, superseded ones too; `_number_by_id` has only the listed ones."""
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
        self._number_by_id = {name: number for number, name in enumerate(names)}  # the newest shard is last
        for name in [*self.invalid_items, *self.manifest.removed_ids]:  # their rows are of older content
            self._number_by_id.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["manifest"])  # type: ignore[misc]  # reopens the files in another process

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards; later reads raise ValueError."""
        for shard in self._shards:
            shard.close()

    def __len__(self) -> int:
        return len(self._number_by_id)

    def __contains__(self, name: object) -> bool:
        return name in self._number_by_id

    @property
    def ids(self) -> list[str]:
        """Return the ids of the items, in the order of the shards; each id occurs once."""
        return list(self._number_by_id)

    @property
    def dim(self) -> int:
        """Return the dimension of the features.

        Raises:
            ValueError: The store is empty.
        """
        if not self._filled:
            raise ValueError(f"{self.folder} is empty. Run the stage that fills it.")
        return self._row_shapes["features"][0]

    @property
    def invalid_items(self) -> dict[str, str]:
        """Return id -> reason of the invalid items."""
        removed = set(self.manifest.removed_ids)
        return {item.id: item.reason for item in self.manifest.invalid_items if item.id not in removed}

    def _numbers(self, ids: Sequence[str]) -> np.ndarray:
        """Return the (n,) item numbers of ids; raise ValueError with the first one that is not in the store."""
        try:
            return np.fromiter(map(self._number_by_id.__getitem__, ids), "int64", len(ids))
        except KeyError as error:
            name = error.args[0]
            removed = "it was removed from the dataset" if name in self.manifest.removed_ids else ""
            reason = removed or self.invalid_items.get(name, "it was never extracted: run `tern extract`")
            raise ValueError(f"{name!r} is not in the store {self.folder}: {reason}.") from None

    def content_hashes(self, ids: Sequence[str]) -> list[str]:
        """Return the content hash of each item."""
        return [self._hashes[number] for number in self._numbers(ids)]

    def checksums(self, ids: Sequence[str]) -> np.ndarray:
        """Return the (n,) uint32 CRC-32 with which the rows of each item were written."""
        return self._crc32[self._numbers(ids)]

    def shard_path(self, name: str) -> Path:
        """Return the path of the shard that holds the rows of an item."""
        return self._filled[self._shard[self._numbers([name])[0]]].path

    def content_digest(self, ids: Sequence[str]) -> str:
        """Compute the digest of the recipe and the content of items, in this order.

        It names what depends on them.
        """
        return digest([self.recipe, list(zip(ids, self.content_hashes(ids), strict=True))])

    def lengths(self, ids: Sequence[str]) -> np.ndarray:
        """Return the (n,) int64 number of rows of each item."""
        return self._rows[self._numbers(ids)]

    def read(self, field: str, ids: Sequence[str]) -> np.ndarray:
        """Read one column of items, in the order of `ids`.

        Args:
            field: Name of the column.
            ids: Ids of n items.

        Returns:
            (sum of lengths, ...) with the rows of the items one after another, or (n, ...) for a column with one value
            per item.

        Raises:
            ValueError: The column or an id is not in the store, or a shard is damaged.
        """
        numbers = self._check_field(field, ids)
        if field in self._per_item:
            return self._per_item[field][numbers]
        rows = self._rows[numbers]
        ends = np.cumsum(rows)
        out = np.empty((int(rows.sum()), *self._row_shapes[field]), self.fields[field].dtype)
        self._read_into(field, numbers, ends - rows, out)
        return out

    def read_padded(
        self, field: str, ids: Sequence[str], out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a column with one value per row into a rectangle, with zeros after the rows of each item.

        Args:
            field: Name of the column.
            ids: Ids of n items.
            out: (n, longest or more, ...) contiguous array of the column's dtype to fill; None allocates one.

        Returns:
            The array (n, longest, ...) or `out`, and the (n,) int64 number of rows of each item.

        Raises:
            ValueError: The column or an id is not in the store, `out` does not fit, or the column has one value per
                item.
        """
        numbers = self._check_field(field, ids)
        if field in self._per_item:
            raise ValueError(f"{field} has one value per item. Use `read` for it.")
        lengths = self._rows[numbers]
        longest, shape, dtype = int(lengths.max(initial=0)), self._row_shapes[field], np.dtype(self.fields[field].dtype)
        if out is None:
            out = np.empty((len(ids), longest, *shape), dtype)
        fits = (
            out.ndim == 2 + len(shape) and len(out) == len(ids) and out.shape[1] >= longest and out.shape[2:] == shape
        )
        if not fits or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"`out` is {out.dtype} {out.shape}; it must be a contiguous {dtype} array of shape ({len(ids)}, "
                f"{longest} or more, {', '.join(map(str, shape))})."
            )
        width = out.shape[1]
        for number in np.flatnonzero(lengths < width):
            out[number, lengths[number] :] = 0
        self._read_into(field, numbers, np.arange(len(ids)) * width, out.reshape(-1, *shape))
        return out, lengths

    def _check_field(self, field: str, ids: Sequence[str]) -> np.ndarray:
        if field not in self.fields:
            raise ValueError(f"{self.folder} has no field {field!r}. Use one of {', '.join(self.fields)}.")
        return self._numbers(ids)

    def _read_into(self, field: str, numbers: np.ndarray, to: np.ndarray, out: np.ndarray) -> None:
        """Read the rows of items into `out` (rows, ...) from the rows `to` on.

        Reads follow the order of the files, and items that are adjacent in both the file and `out` are read together.
        """
        order = np.lexsort((self._start[numbers], self._shard[numbers]))
        numbers, to = numbers[order], to[order]
        shard, start, rows = self._shard[numbers], self._start[numbers], self._rows[numbers]
        follows = (shard[1:] == shard[:-1]) & (start[1:] == (start + rows)[:-1]) & (to[1:] == (to + rows)[:-1])
        first = np.flatnonzero(np.concatenate([[True], ~follows])) if len(numbers) else np.zeros(0, "int64")
        segment_rows = np.add.reduceat(rows, first) if len(first) else rows
        segments = list(zip(start[first].tolist(), segment_rows.tolist(), to[first].tolist(), strict=True))
        edges = np.searchsorted(shard[first], np.arange(len(self._filled) + 1))
        pending = []
        for reader, a, b in zip(self._filled, edges[:-1], edges[1:], strict=True):
            if a < b:
                pending.append((reader, reader.start_read(field, segments[a:b], out)))
        for reader, requests in pending:
            reader.finish_read(requests)

    def preload(self) -> None:
        """Read all shards into the page cache of the operating system; for a store that fits there."""
        for shard in self._shards:
            shard.preload()

    def verify(self) -> list[str]:
        """Return one line per difference between the files and what was written, with file and item."""
        return verify_store(self.folder, self.manifest)


def _open_shards(folder: Path, manifest: StoreManifest | None) -> tuple[StoreManifest, list[ShardReader]]:
    """Open the shards of a manifest; repeat if a compaction deleted files after the manifest was read."""
    opened = manifest or read_store_manifest(folder)
    try:
        return opened, _open_readers(folder, opened)
    except FileNotFoundError as error:
        current = read_store_manifest(folder).generation
        if current == opened.generation:
            raise
        if manifest is None:
            return _open_shards(folder, None)
        raise FileNotFoundError(
            f"{folder} was compacted: generation {opened.generation} no longer exists, the present one is {current}. "
            "Open the store again."
        ) from error


def _open_readers(folder: Path, manifest: StoreManifest) -> list[ShardReader]:
    fields, readers = manifest.fields(), []
    for entry in manifest.shards:
        check_metadata_crc(folder / entry.file, entry)
        reader = ShardReader(folder / entry.file, fields)
        if (len(reader.ids), int(reader.offsets[-1]), reader.bytes) != (entry.items, entry.rows, entry.bytes):
            raise ValueError(f"{reader.path} is not the file that the manifest lists. {RESTORE_HINT}")
        readers.append(reader)
    return readers
