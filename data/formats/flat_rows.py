"""One .npz of flat rows and offsets, for all images: read by name where a plan asks, or from end to end as a format.

The arrays: `filename` (n,) text, `offset` (n + 1,), `size` (n, 2) pixels as width and height, `boxes` (rows, 4) pixels,
`score` (rows,), `cls` (rows,), and one or more arrays of features (rows, d). Row 0 of an image may be the whole image.
"""

import io
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from data.files import atomic_write, sha256_file
from data.formats.arrays import Npz, write_header
from data.formats.records import ExportRows, Format, InvalidSourceRecord, ReadOptions, SourceRecord

VERSION = 2  # to be raised when equal settings give other numbers: stores are named by it
PER_IMAGE_ARRAYS = ("filename", "offset", "size")  # an entry an image
ROW_ARRAYS = {"boxes": "boxes", "score": "scores", "cls": "class_ids"}  # array -> field
EXTRA = {"attr": "attr_ids", "attr_score": "attr_scores"}  # written by us, and read if they are there


class RegionFileConfig(BaseModel):
    """Which file, and which of its arrays stand side by side as the feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    feature_arrays: tuple[str, ...] = Field(min_length=1)  # names of the arrays, joined in this order
    normalize: bool = True  # the rows of each array to unit length, so that none drowns the others


class RegionFile:
    """A file of regions, by image name; its arrays are read when rows are asked for.

    Raises FileNotFoundError, or ValueError naming the array at fault.
    """

    def __init__(self, config: RegionFileConfig):
        if not config.path.is_file():
            raise FileNotFoundError(f"No file of regions at {config.path}; set `regions_file.path` in the plan.")
        self.config = config

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            with Npz(self.config.path) as archive:
                arrays = {
                    name: archive.read(name) for name in (*PER_IMAGE_ARRAYS, *ROW_ARRAYS, *self.config.feature_arrays)
                }
        except ValueError as error:
            raise ValueError(f"{self.config.path} cannot be read as a file of regions: {error}") from error
        shapes = {name: values.shape for name, values in arrays.items()}
        _check(self.config.path, arrays["offset"], shapes, self.config.feature_arrays)
        return arrays

    @cached_property
    def _place(self) -> dict[str, int]:
        return {str(name): number for number, name in enumerate(self._arrays["filename"])}

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the numbers: the bytes of the file, and which arrays are taken."""
        settings = self.config.model_dump(exclude={"path"}, mode="json")
        return {"extractor": "file", "version": VERSION, "file_sha256": sha256_file(self.config.path), **settings}

    classes: tuple[str, ...] = ()  # the file does not say what its numbers name
    attributes: tuple[str, ...] = ()

    def rows(self, names: list[str]) -> Iterator[dict[str, Any] | str]:
        """For each image its fields of a region store, or the reason why there are none."""
        for name in names:
            yield self._row(self._place[name]) if name in self._place else f"it is not in {self.config.path}"

    def _row(self, number: int) -> dict[str, Any]:
        a = self._arrays
        rows = slice(a["offset"][number], a["offset"][number + 1])
        features = concat_features([a[name][rows] for name in self.config.feature_arrays], self.config.normalize)
        none = {"attr_ids": np.full(len(features), -1), "attr_scores": np.zeros(len(features))}
        given = {field: a[name][rows] for name, field in ROW_ARRAYS.items()}
        return {
            "features": features,
            **none,
            **given,
            "scores": fill_nan_scores(given["scores"]),
            "size": a["size"][number],
        }


def concat_features(parts: list[np.ndarray], normalise: bool) -> np.ndarray:
    """(r, d) float32: arrays of rows side by side, each of unit length if that is asked for."""
    parts = [part.astype("float32") for part in parts]
    if normalise:
        parts = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6) for part in parts]
    return np.concatenate(parts, axis=1)


def fill_nan_scores(scores: np.ndarray) -> np.ndarray:
    """Scores with 1 for NaN: the whole image has no score of its own."""
    return np.nan_to_num(scores, nan=1.0)


def _check(path: Path, offset: np.ndarray, found: dict[str, tuple[int, ...]], features: tuple[str, ...]) -> None:
    """Raise ValueError naming the arrays whose shapes do not belong together."""
    images = found["filename"][0] if found["filename"] else -1
    rows = int(offset[-1]) if offset.ndim == 1 and len(offset) and offset.dtype.kind in "iu" else -1
    shapes = {"offset": (images + 1,), "size": (images, 2), "boxes": (rows, 4), "score": (rows,), "cls": (rows,)}
    shapes |= {name: (rows,) for name in EXTRA if name in found}
    wrong = [f"{name} is {found[name]}, not {shape}" for name, shape in shapes.items() if found[name] != shape]
    wrong += [f"{name} is {found[name]}" for name in features if found[name][:1] != (rows,) or len(found[name]) != 2]
    if rows >= 0 and (offset[0] != 0 or (offset[1:] < offset[:-1]).any()):
        wrong.append("offset does not rise from 0")
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong)}.")


def read(path: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """All images in the file's order; of the large arrays one image's rows are in memory at a time."""
    with Npz(path) as archive:
        headers = {name: archive.header(name) for name in archive.names}
        missing = [name for name in (*PER_IMAGE_ARRAYS, *ROW_ARRAYS) if name not in headers]
        if missing:
            raise ValueError(f"{path} has no array {', '.join(missing)}; it has {', '.join(archive.names) or 'none'}")
        filenames, offset, sizes = (archive.read(name) for name in PER_IMAGE_ARRAYS)
        features = options.arrays or tuple(
            name for name, head in headers.items() if len(head.shape) == 2 and name not in ("boxes", "size")
        )
        if not features or set(features) - set(headers) or (len(features) > 1 and not options.arrays):
            raise ValueError(f"{path}: say which arrays are the features, --arrays A,B; it has {', '.join(headers)}")
        _check(path, offset, {name: head.shape for name, head in headers.items()}, features)
        columns = {**ROW_ARRAYS, **{name: field for name, field in EXTRA.items() if name in headers}}
        lengths = [int(n) for n in np.diff(offset)]
        streams = {name: archive.iter_rows(name, lengths) for name in (*columns, *features)}
        for number, name in enumerate(filenames):
            parts = {key: next(stream) for key, stream in streams.items()}
            fields = {field: parts[key] for key, field in columns.items()}
            fields |= {"size": sizes[number], "scores": fill_nan_scores(fields["scores"])}
            fields["features"] = concat_features([parts[key] for key in features], options.normalize)
            yield SourceRecord(str(name), fields, f"{path.name} entry {number}")


def write(target: Path, rows: ExportRows, over: bool) -> None:
    """All images, array after array, each in pieces: memory is one image. The features are called `features`."""
    store, names, total = rows.store, rows.names, int(rows.lengths.sum())
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _whole(archive, "filename", np.array(rows.ids))
        _whole(archive, "offset", np.concatenate([[0], np.cumsum(rows.lengths)]).astype("int64"))
        for name, field in {"size": "size", **ROW_ARRAYS, **EXTRA}.items():
            dtype = store.fields[field].dtype
            tail = {"size": (len(rows), 2), "boxes": (total, 4)}.get(name, (total,))
            with _member(archive, name) as file:
                write_header(file, tail, np.dtype(dtype).str)
                for image in names:
                    file.write(store.read(field, [image]).tobytes())
        with _member(archive, "features") as file:
            write_header(file, (total, rows.dim), "<f4")
            for _, fields in rows:
                file.write(fields["features"].tobytes())


def _member(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)  # type: ignore[return-value]


def _whole(archive: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def count(path: Path) -> int:
    """Images, from the header of `filename`."""
    with Npz(path) as archive:
        return archive.header("filename").shape[0]


FLAT = Format(
    "flat-npz",
    "one .npz of flat rows and offsets",
    read,
    write,
    count,
    frozenset({"size", "boxes", "class_ids", "scores", "attr_ids", "attr_scores"}),
    suffix=".npz",
)
