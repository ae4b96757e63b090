"""The HDF5 of bottom-up-attention-vqa (36 rows an image) and of ban-vqa (any number, `pos_boxes`).

Matched: hengyuan-hu/bottom-up-attention-vqa tools/detection_features_converter.py and jnhwkim/ban-vqa
tools/adaptive_detection_features_converter.py; the index beside the file is JSON here, a pickle there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.config import ReadOptions
from data.formats.arrays import MAX_ARRAY_BYTES, is_transient_error
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord, start_export
from data.io.files import atomic_write, read_json, write_json
from data.unpickle import load_restricted

NAMES = ("image_features", "image_bb", "spatial_features")


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, h5py.Dataset]]:
    """The datasets of a file by name. Raises ValueError: it is none, or its data lie in other files."""
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is not a readable HDF5 file ({error})") from error
    with file:
        found = {}
        for name in (*NAMES, "pos_boxes"):
            try:
                link = file.get(name, getlink=True)
                data = file[name] if isinstance(link, h5py.HardLink) else None
            except (RuntimeError, KeyError, OSError) as error:
                raise ValueError(f"{path}: {name} cannot be read ({error}); restore the file") from error
            if link is None:
                continue
            if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual or data.dtype.kind not in "fiu":
                raise ValueError(f"{path}: {name} is no dataset of numbers in this file; it is not followed elsewhere")
            found[name] = data
        yield found


def read(path: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """One record an image of the index, in the order of the file's rows; which of the two layouts it is, it says.

    Sizes come out of the six geometry values, which are fractions of them.
    """
    index = _index(path)
    with _opened(path) as data:
        _check(path, data)
        spans = _spans(data)
        images = len(data["pos_boxes"] if spans is not None else data["image_features"])
        for name, number in sorted(index.items(), key=lambda pair: pair[1]):
            place = f"{path.name} row {number}"
            try:
                if not 0 <= number < images:
                    raise ValueError(f"the index names row {number}, and the file has {images}")
                rows = number if spans is None else _span(data, spans[number])
                yield SourceRecord(name, _fields(data, rows), place)
            except (ValueError, OSError, RuntimeError) as error:
                if is_transient_error(error):
                    raise
                yield InvalidSourceRecord(place, str(error), name)


def is_adaptive(path: Path) -> bool:
    """Whether a file has `pos_boxes`. Raises ValueError if it is no HDF5 file."""
    with _opened(path) as data:
        return "pos_boxes" in data


def _check(path: Path, data: dict[str, h5py.Dataset]) -> None:
    missing = [name for name in NAMES[:2] if name not in data]
    if missing:
        raise ValueError(f"{path} has no {' and no '.join(missing)}: it is not of bottom-up-attention-vqa or ban-vqa")
    features, ndim = data["image_features"], 2 if "pos_boxes" in data else 3
    if features.ndim != ndim:
        raise ValueError(f"{path}: image_features is {features.shape}; {ndim} axes are needed")
    for name, width in (("image_bb", 4), ("spatial_features", 6)):
        if name in data and data[name].shape != (*features.shape[:-1], width):
            raise ValueError(f"{path}: {name} is {data[name].shape}, not {(*features.shape[:-1], width)}")
    if ndim == 2 and data["pos_boxes"].shape[1:] != (2,):
        raise ValueError(f"{path}: pos_boxes is {data['pos_boxes'].shape}, not (images, 2)")
    if ndim == 2 and data["pos_boxes"].nbytes > MAX_ARRAY_BYTES:
        raise ValueError(f"{path}: pos_boxes is {data['pos_boxes'].shape}: no file has so many images")
    one = features.shape[1:] if ndim == 3 else (1, features.shape[1])
    if int(np.prod(one, dtype=object)) * features.dtype.itemsize > MAX_ARRAY_BYTES:
        raise ValueError(f"{path}: image_features is {features.shape}: no image has so much")


def _spans(data: dict[str, h5py.Dataset]) -> np.ndarray | None:
    return data["pos_boxes"][:].astype("int64") if "pos_boxes" in data else None


def _span(data: dict[str, h5py.Dataset], span: np.ndarray) -> slice:
    start, end = map(int, span)
    features = data["image_features"]
    if not 0 <= start < end <= len(features):
        raise ValueError(f"pos_boxes says rows {start} to {end}, and the file has {len(features):,}")
    if (end - start) * features.shape[1] * features.dtype.itemsize > MAX_ARRAY_BYTES:
        raise ValueError(f"pos_boxes says {end - start:,} rows: no image has so many")
    return slice(start, end)


def _fields(data: dict[str, h5py.Dataset], rows: int | slice) -> dict[str, Any]:
    fields: dict[str, Any] = {"features": data["image_features"][rows], "boxes": data["image_bb"][rows]}
    if "spatial_features" in data:
        size = infer_image_size(fields["boxes"], data["spatial_features"][rows])
        fields |= {} if size is None else {"size": np.array(size)}
    return fields


def infer_image_size(boxes: np.ndarray, spatial: np.ndarray) -> tuple[int, int] | None:
    """Width and height in pixels that turn `boxes` into their fractions; None if they say nothing or disagree."""
    found = []
    for axis in (0, 1):
        pixels, parts = (v[:, [axis, axis + 2]].ravel().astype("f8") for v in (boxes, spatial))
        good = np.isfinite(pixels) & np.isfinite(parts) & (np.abs(parts) > 1e-30)
        if not good.any():
            return None
        best = np.argmax(np.where(good, np.abs(parts), -1))
        side = pixels[best] / parts[best]
        if not 0.5 <= side < 2**20 or abs(side - round(side)) > 1e-6 * side + 1e-3:
            return None
        found.append(round(side))
    return found[0], found[1]


def spatial_features(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(r, 6) float32: x1 y1 x2 y2 w h as fractions of the image, in the converter's order of operations."""
    width, height = map(float, size)
    w, h = (boxes[:, 2] - boxes[:, 0]) / width, (boxes[:, 3] - boxes[:, 1]) / height
    x, y = boxes[:, 0] / width, boxes[:, 1] / height
    return np.stack([x, y, x + w, y + h, w, h], axis=1).astype("f4")


def sidecar_paths(path: Path) -> list[Path]:
    """Where the index of a file may lie: JSON first."""
    return [path.with_name(f"{path.stem}_imgid2idx{suffix}") for suffix in (".json", ".pkl")]


def _index(path: Path) -> dict[str, int]:
    """Image id -> row. A pickle is read as plain values only."""
    found = next((p for p in sidecar_paths(path) if p.is_file()), None)
    if found is None:
        names = " or ".join(p.name for p in sidecar_paths(path))
        raise FileNotFoundError(f"{path} says no image ids: put {names} beside it (image id -> row)")
    try:
        content = read_json(found) if found.suffix == ".json" else load_restricted(found)
    except ValueError as error:
        raise ValueError(f"{found} cannot be read: {error}") from error
    whole = lambda value: isinstance(value, (int, np.integer)) and not isinstance(value, bool)  # noqa: E731
    if not isinstance(content, dict) or not all(whole(row) for row in content.values()):
        raise ValueError(f"{found} is not a dict of image id -> row")
    if not all(whole(name) or isinstance(name, str) for name in content):
        raise ValueError(f"{found} has keys that are neither whole numbers nor text")
    return {str(name): int(row) for name, row in content.items()}


def write(adaptive: bool, target: Path, rows: ExportRows, over: bool) -> None:
    """`*_imgid2idx.json`, then the file beside it, image by image. Raises ValueError if a fixed one does not fit."""
    fixed = (len(rows), rows.fixed_rows("export as vqa-h5-adaptive")) if not adaptive else (int(rows.lengths.sum()),)
    if adaptive and fixed[0] > 2**31 - 1:
        raise ValueError(f"{fixed[0]:,} rows do not fit the 32 bits of pos_boxes; export in parts, with --list")
    start_export(target)
    write_json(sidecar_paths(target)[0], {name: number for number, name in enumerate(rows.ids)})
    with atomic_write(target) as temporary, h5py.File(temporary, "w", libver=("earliest", "v110")) as file:
        made = {name: file.create_dataset(name, (*fixed, width), "f4") for name, width in _widths(rows).items()}
        if adaptive:
            ends = np.cumsum(rows.lengths)
            file["pos_boxes"] = np.stack([ends - rows.lengths, ends], axis=1).astype("int32")
        end = 0
        for number, (_, fields) in enumerate(rows):
            start, end = end, end + len(fields["boxes"])
            place = slice(start, end) if adaptive else number
            made["image_features"][place] = fields["features"]
            made["image_bb"][place] = fields["boxes"]
            made["spatial_features"][place] = spatial_features(fields["boxes"], fields["size"])


def _widths(rows: ExportRows) -> dict[str, int]:
    return dict(zip(NAMES, (rows.dim, 4, 6), strict=True))


def count(path: Path) -> int:
    """Images in the index."""
    return len(_index(path))


_CARRIES = frozenset({"boxes", "size"})
FIXED = Format(
    "vqa-h5",
    "VQA train36.hdf5",
    read,
    partial(write, False),
    count,
    _CARRIES,
    suffix=".hdf5",
    sidecar_files=lambda target: sidecar_paths(target)[:1],
    fixed_rows=True,
)
ADAPTIVE = Format(
    "vqa-h5-adaptive",
    "ban-vqa HDF5 with pos_boxes",
    read,
    partial(write, True),
    count,
    _CARRIES,
    suffix=".hdf5",
    sidecar_files=lambda target: sidecar_paths(target)[:1],
)
