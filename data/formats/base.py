"""Records that the readers of formats yield and the writers receive; fields and units are those of a region store.

r: rows of an image, d: feature dimension.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.config import ReadOptions
from data.store.intact import iter_intact_columns
from data.store.store import Store


@dataclass(frozen=True)
class SourceRecord:
    """One image of a file."""

    id: str
    fields: dict[str, Any]
    """Fields that the format has, by their names in a region store."""
    location: str
    """File and line or key, for messages."""
    split: str = ""
    """Split, for formats that have one file per split."""


@dataclass(frozen=True)
class InvalidSourceRecord:
    """An image of a file that cannot be read."""

    location: str
    """File and line or key."""
    reason: str
    id: str = ""
    """Id in the file, if it can be read."""
    split: str = ""


Reader = Callable[[Path, ReadOptions], Iterator[SourceRecord | InvalidSourceRecord]]


@dataclass(frozen=True)
class Format:
    """A format of region features: how to read and write it, and what it holds."""

    name: str
    title: str
    read: Reader
    write: Callable[[Path, "ExportRows"], None]
    """Function of target and rows. A file is replaced with its sidecar files; in a folder existing files are kept."""
    count: Callable[[Path], int]
    """Function that counts the images of a file or folder, for progress bars; may be an estimate."""
    fields: frozenset[str]
    """Fields of a region store that it holds besides `features`."""
    is_prefix: bool = False
    """Whether a source may be the common prefix of the names of several folders."""
    is_folder: bool = False
    """Whether it is a folder with one file per image."""
    suffix: str = ""
    """Suffix of the file that is written."""
    sidecar_files: Callable[[Path], list[Path]] = lambda _: []
    """Function that returns the files that are written with a target."""
    fixed_rows: bool = False
    """Whether every image has the same number of rows."""


@dataclass(frozen=True)
class ExportRows:
    """Images of a region store to export; iterating reads one image at a time.

    An iteration gives (id in the file, fields), with float32 features (r, d) and `size` (2,): width, height, pixels. It
    raises ValueError for damaged rows.
    """

    store: Store
    names: list[str]
    """Ids in the store."""
    ids: list[str]
    """Ids in the file, in the same order."""
    on_progress: Callable[[int], None] = field(default=lambda _: None)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for exported_id, columns in zip(self.ids, iter_intact_columns(self.store, self.names), strict=True):
            yield exported_id, {**columns, "features": columns["features"].astype("<f4")}
            self.on_progress(1)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Return the (n,) int64 number of rows of each image."""
        return self.store.lengths(self.names)

    @property
    def dim(self) -> int:
        """Return the feature dimension."""
        return self.store.dim

    def fixed_rows(self, hint: str) -> int:
        """Return the number of rows that all images have.

        Args:
            hint: What to do if they differ, as a sentence for the message.

        Raises:
            ValueError: An image has another number of rows than the first one.
        """
        rows = int(self.lengths[0])
        different = np.flatnonzero(self.lengths != rows)
        if len(different):
            name, num_rows = self.names[different[0]], int(self.lengths[different[0]])
            raise ValueError(
                f"{self.store.folder}: {name!r} has {num_rows} rows, {self.names[0]!r} has {rows}; in this format all "
                f"images have the same number of rows. {hint}"
            )
        return rows
