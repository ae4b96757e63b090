"""What every format reads into and writes from: an image's rows with its id, or the reason why there are none.

r rows of an image, d feature width. Fields and units are those of a region store (data/shards.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.config import ReadOptions
from data.io.files import fsync_path, write_json
from data.manifest.schema import REGION_FIELDS
from data.store.store import Store


@dataclass(frozen=True)
class SourceRecord:
    """One image as a file has it: `fields` are those that the format carries, under the names of a region store."""

    id: str
    fields: dict[str, Any]
    location: str  # file and line or key, for messages
    split: str = ""  # of formats whose files are named by it


@dataclass(frozen=True)
class InvalidSourceRecord:
    """A record that cannot be used: where it stands, what it calls itself if that can be read, and why not."""

    location: str
    reason: str
    id: str = ""
    split: str = ""


Reader = Callable[[Path, ReadOptions], Iterator[SourceRecord | InvalidSourceRecord]]


@dataclass(frozen=True)
class Format:
    """An interchange format: how it is read and written, and what it carries."""

    name: str
    title: str
    read: Reader
    write: Callable[[Path, "ExportRows", bool], None]  # target, rows, over what is there
    count: Callable[[Path], int]  # images, for the progress bar; -1 where that is not known cheaply
    fields: frozenset[str]  # fields; features always
    is_prefix: bool = False  # its source may be the common beginning of several folders' names
    is_folder: bool = False  # it is a folder of a file an image
    suffix: str = ""  # of the file that is written
    sidecar_files: Callable[[Path], list[Path]] = lambda _: []  # files that are written with the target
    fixed_rows: bool = False  # every image has the same number of rows


@dataclass(frozen=True)
class ExportRows:
    """Images of a region store on their way out, in the store's order, under the ids that they shall have."""

    store: Store
    names: list[str]  # in the store
    ids: list[str]  # in the file
    on_progress: Callable[[int], None] = field(default=lambda _: None)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """(id, fields), features in float32, size (w, h): one image in memory at a time."""
        for name, out in zip(self.names, self.ids, strict=True):
            fields = {key: self.store.read(key, [name]) for key in REGION_FIELDS}
            fields["features"] = fields["features"].astype("<f4")
            yield out, {**fields, "size": fields["size"][0]}
            self.on_progress(1)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) int64: rows of each image."""
        return self.store.lengths(self.names)

    @property
    def dim(self) -> int:
        """Feature width."""
        return self.store.dim

    def fixed_rows(self, instead: str) -> int:
        """The one number of rows that all images have. Raises ValueError naming the first that has another."""
        rows = int(self.lengths[0])
        other = np.flatnonzero(self.lengths != rows)
        if len(other):
            name, found = self.names[other[0]], int(self.lengths[other[0]])
            raise ValueError(
                f"{self.store.folder}: {name!r} has {found} rows, {self.names[0]!r} has {rows}, and this format gives "
                f"every image the same number; {instead}."
            )
        return rows


def export_marker(target: Path) -> Path:
    """The mark beside a file that is written with others: while it is there, their export has not ended."""
    return target.with_name(f".{target.name}.exporting")


def start_export(target: Path) -> None:
    """To be called, once nothing can be refused any more, before the first of the files beside `target` is written.

    While they are new, the old target must not be there: it would be read with their ids.
    """
    write_json(export_marker(target), {"target": target.name})
    target.unlink(missing_ok=True)
    fsync_path(target.parent)
