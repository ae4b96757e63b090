"""One .npz file with the rows of all images and their offsets: a format, and the source of `RegionFile`.

Arrays: `filename` (n,) text, `offset` (n + 1,), `size` (n, 2) width and height in pixels, `boxes` (rows, 4) pixels,
`score` (rows,), `cls` (rows,), and one or more arrays of features (rows, d). Row 0 of an image may be the whole image.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.config import ReadOptions
from data.formats.arrays import check_image_shape, write_header
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord
from data.formats.names import parse_id
from data.formats.npz import Npz
from data.io.files import atomic_write

PER_IMAGE_ARRAYS = ("filename", "offset", "size")  # one entry per image
ROW_ARRAYS = {"boxes": "boxes", "score": "scores", "cls": "class_ids"}  # array -> field
EXTRA = {"attr": "attr_ids", "attr_score": "attr_scores"}  # optional; this program writes them


def concat_features(parts: list[np.ndarray], normalize: bool) -> np.ndarray:
    """Concatenate feature arrays of the same rows.

    Args:
        parts: (r, d_i) arrays.
        normalize: Scale the rows of each array to unit length first.

    Returns:
        (r, sum of d_i) float32.

    Raises:
        ValueError: A part is not of numbers, such as complex or bool.
    """
    for part in parts:
        if part.dtype.kind not in "fiu":
            raise ValueError(f"its features are {part.dtype}; they must be numbers")
    parts = [part.astype("float32") for part in parts]
    if normalize:
        parts = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6) for part in parts]
    return np.concatenate(parts, axis=1)


def fill_nan_scores(scores: np.ndarray) -> np.ndarray:
    """Replace NaN by 1: in these files the whole-image region has no score."""
    return np.where(np.isnan(scores), 1.0, scores) if scores.dtype.kind == "f" else scores


def check_shapes(path: Path, offset: np.ndarray, shapes: dict[str, tuple[int, ...]], features: tuple[str, ...]) -> None:
    """Check that the arrays of a file belong together.

    Args:
        path: The file, for the message.
        offset: Values of the array `offset`.
        shapes: Array name -> shape.
        features: Names of the feature arrays.

    Raises:
        ValueError: Shapes do not fit each other, or the offsets do not increase from 0.
    """
    if offset.ndim != 1 or not len(offset) or offset.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: offset is {offset.dtype} {offset.shape}; it must be whole numbers of shape (images + 1,). Write "
            "the file again."
        )
    images, rows = shapes["filename"][0] if shapes["filename"] else -1, int(offset[-1])
    expected = {"offset": (images + 1,), "size": (images, 2), "boxes": (rows, 4), "score": (rows,), "cls": (rows,)}
    expected |= {name: (rows,) for name in EXTRA if name in shapes}
    problems = [f"{name} is {shapes[name]}, not {shape}" for name, shape in expected.items() if shapes[name] != shape]
    problems += [
        f"{name} is {shapes[name]}" for name in features if shapes[name][:1] != (rows,) or len(shapes[name]) != 2
    ]
    if offset[0] != 0 or (offset[1:] < offset[:-1]).any():
        problems.append("offset does not increase from 0")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}. Write the file again.")


def read(path: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """Read all images in the order of the file; of the large arrays, the rows of one image are in memory."""
    with Npz(path) as archive:
        headers = {name: archive.header(name) for name in archive.names}
        missing = [name for name in (*PER_IMAGE_ARRAYS, *ROW_ARRAYS) if name not in headers]
        if missing:
            raise ValueError(f"{path} has no array {', '.join(missing)}, only {', '.join(archive.names) or 'none'}.")
        filenames, offset, sizes = (archive.read(name) for name in PER_IMAGE_ARRAYS)
        features = options.arrays or tuple(
            name for name, head in headers.items() if len(head.shape) == 2 and name not in ("boxes", "size")
        )
        if not features or set(features) - set(headers) or (len(features) > 1 and not options.arrays):
            raise ValueError(
                f"{path}: it is unknown which arrays are the features. Pass --feature-arrays with some of "
                f"{', '.join(headers)}."
            )
        check_shapes(path, offset, {name: head.shape for name, head in headers.items()}, features)
        columns = {**ROW_ARRAYS, **{name: field for name, field in EXTRA.items() if name in headers}}
        lengths = [int(n) for n in np.diff(offset)]
        streams = {name: archive.iter_rows(name, lengths) for name in (*columns, *features)}
        for number, name in enumerate(filenames):
            parts = {key: next(stream) for key, stream in streams.items()}
            location = f"{path.name} entry {number}"
            try:
                image_id = parse_id(name)
                for key in (*columns, *features):  # rows that are too large were skipped
                    check_image_shape("it", (lengths[number], *headers[key].shape[1:]), headers[key].dtype)
                yield SourceRecord(image_id, _join_parts(parts, columns, features, sizes[number], options), location)
            except ValueError as error:
                yield InvalidSourceRecord(location, str(error))


def _join_parts(
    parts: dict[str, np.ndarray],
    columns: dict[str, str],
    features: tuple[str, ...],
    size: np.ndarray,
    options: ReadOptions,
) -> dict[str, np.ndarray]:
    fields = {field: parts[key] for key, field in columns.items()}
    joined = concat_features([parts[key] for key in features], options.normalize)
    return {**fields, "size": size, "scores": fill_nan_scores(fields["scores"]), "features": joined}


def write(target: Path, rows: ExportRows) -> None:
    """Write all images, array by array, with one image in memory; the feature array is named `features`."""
    store, names, total = rows.store, rows.names, int(rows.lengths.sum())
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _write_array(archive, "filename", np.array(rows.ids))
        _write_array(archive, "offset", np.concatenate([[0], np.cumsum(rows.lengths)]).astype("int64"))
        for name, field in {"size": "size", **ROW_ARRAYS, **EXTRA}.items():
            dtype = store.fields[field].dtype
            shape = {"size": (len(rows), 2), "boxes": (total, 4)}.get(name, (total,))
            with _open_member(archive, name) as file:
                write_header(file, shape, np.dtype(dtype).str)
                for image in names:
                    file.write(store.read(field, [image]).tobytes())
        with _open_member(archive, "features") as file:
            write_header(file, (total, rows.dim), "<f4")
            for _, fields in rows:
                file.write(fields["features"].tobytes())


def _open_member(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)  # type: ignore[return-value]  # a writable binary stream


def _write_array(archive: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())


def count(path: Path) -> int:
    """Count the images by the header of `filename`."""
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
