"""One .npz of flat rows and offsets, for all images: read by name where a plan asks, or from end to end as a format.

The arrays: `filename` (n,) text, `offset` (n + 1,), `size` (n, 2) pixels as width and height, `boxes` (rows, 4) pixels,
`score` (rows,), `cls` (rows,), and one or more arrays of features (rows, d). Row 0 of an image may be the whole image.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.config import ReadOptions
from data.formats.arrays import Npz, write_header
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord
from data.io.files import atomic_write

PER_IMAGE_ARRAYS = ("filename", "offset", "size")  # an entry an image
ROW_ARRAYS = {"boxes": "boxes", "score": "scores", "cls": "class_ids"}  # array -> field
EXTRA = {"attr": "attr_ids", "attr_score": "attr_scores"}  # written by us, and read if they are there


def concat_features(parts: list[np.ndarray], normalize: bool) -> np.ndarray:
    """(r, d) float32: arrays of rows side by side, each of unit length if that is asked for."""
    parts = [part.astype("float32") for part in parts]
    if normalize:
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
