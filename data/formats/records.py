"""What every format reads into and writes from: an image's rows with its id, or the reason why there are none.

r rows of an image, d feature width. Fields and units are those of a region store (data/shards.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.files import fsync_path, write_json
from data.shards import REGION_FIELDS
from data.store import Store

MAX_SIDE = 2**31 - 1  # pixels
MISSING_VALUES = {
    "class_ids": -1,
    "scores": 0.0,
    "attr_ids": -1,
    "attr_scores": 0.0,
}  # what stands where a format has nothing
INT32 = np.iinfo("int32")


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


@dataclass(frozen=True)
class ReadOptions:
    """What a file may leave open."""

    transposed: bool | None = None  # x of a per-image npz is (d, r); None is to be told from the file
    arrays: tuple[str, ...] = ()  # of a file of flat rows: the arrays that stand side by side as the feature
    normalize: bool = False  # each of those to unit length
    allow_pickle: tuple[str, ...] = ()  # arrays of a npz that may be a pickle of plain values


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


def fill_missing_fields(
    fields: dict[str, Any], size: tuple[int, int] | None, boxes: Literal["file", "image"]
) -> dict[str, Any]:
    """All fields of a region store: what the format lacks is filled in as `LACKING` says.

    Raises ValueError, saying what to give, if there is no size or there are no boxes.
    """
    rows = len(fields["features"])
    full = {**{name: np.full(rows, value) for name, value in MISSING_VALUES.items()}, **fields}
    if "size" not in full:
        if size is None:
            raise ValueError("the format has no image sizes: give the photographs with --images, or --sizes boxes")
        full["size"] = np.array(size)
    if "boxes" not in full:
        if boxes != "image":
            raise ValueError("the format has no boxes: import with --boxes whole to give every row the whole image")
        full["boxes"] = np.tile(np.array([0, 0, *full["size"]], "float32"), (rows, 1))
    return full


def find_problem(fields: dict[str, Any], dtype: str, dim: int | None) -> str:
    """Why the fields of one image cannot go into a store of this dtype and width, or an empty text."""
    features, rows = fields["features"], len(fields["features"])
    if features.ndim != 2 or features.dtype.kind not in "fiu" or 0 in features.shape:
        return f"its features are {features.dtype} {features.shape}; numbers of (rows, width), both above 0, are needed"
    if dim is not None and features.shape[1] != dim:
        return f"its features are {features.shape[1]} wide, those before it {dim}"
    shapes = {"boxes": (rows, 4), "size": (2,), **dict.fromkeys(MISSING_VALUES, (rows,))}
    for name, shape in shapes.items():
        if fields[name].shape != shape or fields[name].dtype.kind not in "fiu":
            return f"its {name} are {fields[name].dtype} {fields[name].shape}; numbers of {shape} are needed"
        if REGION_FIELDS[name].dtype == "int32" and not _fits(fields[name]):
            return f"its {name} are no whole numbers that fit into 32 bits"
    if not (fields["size"].min() >= 1 and fields["size"].max() <= MAX_SIDE):
        return f"its size is {'x'.join(str(side) for side in fields['size'])} pixels"
    with np.errstate(over="ignore", invalid="ignore"):
        stored = {"features": features.astype(dtype), **{n: fields[n].astype("f4") for n in ("boxes", "scores")}}
        stored["attr_scores"] = fields["attr_scores"].astype("f4")
    broken = [name for name, values in stored.items() if not np.isfinite(values).all()]
    return f"its {' and '.join(broken)} are not finite as {dtype}" if broken else ""


def _fits(values: np.ndarray) -> bool:
    whole = values.dtype.kind in "iu" or bool((np.isfinite(values) & (values == np.floor(values))).all())
    return whole and bool(((values >= INT32.min) & (values <= INT32.max)).all())
