"""HDF5 files of bottom-up-attention-vqa (36 rows per image) and of ban-vqa (any number of rows, with `pos_boxes`).

Matches hengyuan-hu/bottom-up-attention-vqa tools/detection_features_converter.py and jnhwkim/ban-vqa
tools/adaptive_detection_features_converter.py; their sidecar file of ids is a pickle, this program writes JSON.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.config import ReadOptions
from data.formats.arrays import check_image_shape, is_transient_error
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord
from data.formats.sidecar import read_sidecar, sidecar_paths
from data.io.error_keeping_file import ErrorKeepingFile
from data.io.files import format_json
from data.io.limits import MAX_CHUNK_BYTES, check_expansion, check_limit
from data.io.together import atomic_write_together

NAMES = ("image_features", "image_bb", "spatial_features")


@contextmanager
def _open_datasets(path: Path) -> Iterator[dict[str, h5py.Dataset]]:
    """Open the HDF5 datasets of a file by name; raise ValueError if one is not in the file itself."""
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is not a readable HDF5 file ({error}). Restore the file.") from error
    with file:
        datasets = {}
        for name in (*NAMES, "pos_boxes"):
            try:
                link = file.get(name, getlink=True)
                data = file[name] if isinstance(link, h5py.HardLink) else None
            except (RuntimeError, KeyError, OSError) as error:
                raise ValueError(f"{path}: {name} cannot be read ({error}). Restore the file.") from error
            if link is None:
                continue
            if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual or data.dtype.kind not in "fiu":
                raise ValueError(
                    f"{path}: {name} is not an HDF5 dataset of numbers in this file. Copy linked data into the file."
                )
            datasets[name] = data
        _check_sizes(path, datasets)
        yield datasets


def _check_sizes(path: Path, datasets: dict[str, h5py.Dataset]) -> None:
    """Check that the file has the bytes of its datasets; chunks are compressed, and HDF5 lets chunks be missing."""
    size, stored = path.stat().st_size, {name: data.id.get_storage_size() for name, data in datasets.items()}
    if sum(stored.values()) > size:
        raise ValueError(f"{path}: its datasets have {sum(stored.values()):,} bytes, the file {size:,}: they overlap")
    for name, data in datasets.items():
        check_expansion(f"{path}: {name}", stored[name], data.nbytes)
        if data.chunks:
            chunk = prod(data.chunks) * data.dtype.itemsize
            check_limit(f"{path}: {name}", chunk, MAX_CHUNK_BYTES, "bytes per HDF5 chunk")


def read(path: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """Read one record per image of the sidecar file, in the order of the rows of the file.

    `pos_boxes` decides which of the two layouts the file has. Image sizes are computed from `spatial_features`, which
    are fractions of them.
    """
    row_by_id = read_sidecar(path)
    with _open_datasets(path) as data:
        _check_shapes(path, data)
        spans = _read_spans(data)
        images = len(data["pos_boxes"] if spans is not None else data["image_features"])
        id_by_row: dict[int, str] = {}
        for name, number in sorted(row_by_id.items(), key=lambda pair: pair[1]):
            location = f"{path.name} row {number}"
            try:
                if (first := id_by_row.setdefault(number, name)) != name:
                    raise ValueError(f"the sidecar file gives the same row to {first!r}")
                if not 0 <= number < images:
                    raise ValueError(f"the sidecar file has row {number}, but the file has only {images} rows")
                rows = number if spans is None else _make_slice(data, spans[number])
                yield SourceRecord(name, _read_fields(data, rows), location)
            except (ValueError, OSError, RuntimeError) as error:
                if is_transient_error(error):
                    raise
                yield InvalidSourceRecord(location, str(error), name)


def is_adaptive(path: Path) -> bool:
    """Return whether a file has `pos_boxes`.

    Raises:
        ValueError: It is not an HDF5 file.
    """
    with _open_datasets(path) as data:
        return "pos_boxes" in data


def _check_shapes(path: Path, data: dict[str, h5py.Dataset]) -> None:
    missing = [name for name in NAMES[:2] if name not in data]
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(missing)}; it is not a file of bottom-up-attention-vqa or ban-vqa"
        )
    features, ndim = data["image_features"], 2 if "pos_boxes" in data else 3
    if features.ndim != ndim:
        raise ValueError(f"{path}: image_features is {features.shape}; it must have {ndim} axes")
    for name, width in (("image_bb", 4), ("spatial_features", 6)):
        if name in data and data[name].shape != (*features.shape[:-1], width):
            raise ValueError(f"{path}: {name} is {data[name].shape}, not {(*features.shape[:-1], width)}")
    if ndim == 2 and data["pos_boxes"].shape[1:] != (2,):
        raise ValueError(f"{path}: pos_boxes is {data['pos_boxes'].shape}, not (images, 2)")
    if ndim == 2 and data["pos_boxes"].dtype.kind not in "iu":
        raise ValueError(f"{path}: pos_boxes is {data['pos_boxes'].dtype}; row numbers are integers")
    image_shape = features.shape[1:] if ndim == 3 else (1, features.shape[1])
    check_image_shape(f"{path}: an image", image_shape, features.dtype)


def _read_spans(data: dict[str, h5py.Dataset]) -> np.ndarray | None:
    return data["pos_boxes"][:] if "pos_boxes" in data else None


def _make_slice(data: dict[str, h5py.Dataset], span: np.ndarray) -> slice:
    start, end = map(int, span)
    features = data["image_features"]
    if not 0 <= start < end <= len(features):
        raise ValueError(f"pos_boxes has the rows {start} to {end}, but the file has only {len(features):,} rows")
    check_image_shape("it", (end - start, features.shape[1]), features.dtype)
    return slice(start, end)


def _read_fields(data: dict[str, h5py.Dataset], rows: int | slice) -> dict[str, Any]:
    fields: dict[str, Any] = {"features": data["image_features"][rows], "boxes": data["image_bb"][rows]}
    if "spatial_features" in data:
        size = infer_image_size(fields["boxes"], data["spatial_features"][rows])
        fields |= {} if size is None else {"size": np.array(size)}
    return fields


def infer_image_size(boxes: np.ndarray, spatial: np.ndarray) -> tuple[int, int] | None:
    """Infer width and height in pixels from boxes and their fractions.

    Args:
        boxes: (r, 4) x1 y1 x2 y2 in pixels.
        spatial: (r, 6) x1 y1 x2 y2 w h as fractions of the image.

    Returns:
        Width and height, or None if the values do not determine them.
    """
    sides = []
    for axis in (0, 1):
        pixels, fractions = (v[:, [axis, axis + 2]].ravel().astype("f8") for v in (boxes, spatial))
        is_valid = np.isfinite(pixels) & np.isfinite(fractions) & (np.abs(fractions) > 1e-30)
        if not is_valid.any():
            return None
        best = np.argmax(np.where(is_valid, np.abs(fractions), -1))
        side = pixels[best] / fractions[best]
        if not 0.5 <= side < 2**20 or abs(side - round(side)) > 1e-6 * side + 1e-3:
            return None
        sides.append(round(side))
    return sides[0], sides[1]


def spatial_features(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Compute (r, 6) float32 x1 y1 x2 y2 w h as fractions of the image.

    The order of the operations is that of the converter.
    """
    width, height = map(float, size)
    w, h = (boxes[:, 2] - boxes[:, 0]) / width, (boxes[:, 3] - boxes[:, 1]) / height
    x, y = boxes[:, 0] / width, boxes[:, 1] / height
    return np.stack([x, y, x + w, y + h, w, h], axis=1).astype("f4")


def write(adaptive: bool, target: Path, rows: ExportRows) -> None:
    """Write the file, image by image, and `*_imgid2idx.json`.

    Raises:
        ValueError: The images have different numbers of rows and the file is not adaptive, or there are too many rows.
    """
    shape = (len(rows), rows.fixed_rows("Export as vqa-h5-adaptive.")) if not adaptive else (int(rows.lengths.sum()),)
    if adaptive and shape[0] > 2**31 - 1:
        raise ValueError(
            f"{shape[0]:,} rows do not fit into the 32 bits of pos_boxes. Export in parts, with --ids-file."
        )
    with atomic_write_together([sidecar_paths(target)[0], target]) as (sidecar, temporary):
        sidecar.write_text(format_json({name: number for number, name in enumerate(rows.ids)}), encoding="utf-8")
        with ErrorKeepingFile(temporary) as output, h5py.File(output, "w", libver=("earliest", "v110")) as file:
            _write_datasets(file, output, shape, rows)


def _write_datasets(file: h5py.File, output: ErrorKeepingFile, shape: tuple[int, ...], rows: ExportRows) -> None:
    """Write the rows; `shape` is (images, rows per image), or (rows,) if the file is adaptive."""
    widths = zip(NAMES, (rows.dim, 4, 6), strict=True)
    datasets = {name: file.create_dataset(name, (*shape, width), "f4") for name, width in widths}
    if len(shape) == 1:
        ends = np.cumsum(rows.lengths)
        file["pos_boxes"] = np.stack([ends - rows.lengths, ends], axis=1).astype("int32")
    end = 0
    for number, (_, fields) in enumerate(rows):
        start, end = end, end + len(fields["boxes"])
        index = slice(start, end) if len(shape) == 1 else number
        datasets["image_features"][index] = fields["features"]
        datasets["image_bb"][index] = fields["boxes"]
        datasets["spatial_features"][index] = spatial_features(fields["boxes"], fields["size"])
        if output.error is not None:
            return


def count(path: Path) -> int:
    """Count the images of the sidecar file."""
    return len(read_sidecar(path))


_FIELDS = frozenset({"boxes", "size"})
FIXED = Format(
    "vqa-h5",
    "VQA train36.hdf5",
    read,
    partial(write, False),
    count,
    _FIELDS,
    suffix=".hdf5",
    sidecar_files=lambda target: sidecar_paths(target)[:1],
    fixed_rows=True,
)
ADAPTIVE = replace(
    FIXED,
    name="vqa-h5-adaptive",
    title="ban-vqa HDF5 with pos_boxes",
    write=partial(write, True),
    fixed_rows=False,
)
