"""One file per image: .npz of MILVLG and MCAN, and the att/box folders of ruotianluo, TERN and TERAN.

Matches MILVLG/bottom-up-attention.pytorch utils/extract_utils.py, MILVLG/mcan-vqa core/data (with x transposed),
ruotianluo/ImageCaptioning.pytorch captioning/data/dataloader.py and mesnico/TERAN data.py.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.config import ReadOptions
from data.formats.arrays import READ_ERRORS, is_transient_error, load_npy, write_header
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord
from data.formats.names import safe_join
from data.formats.npz import Npz, write_npz
from data.io.files import atomic_write
from data.io.limits import MAX_IMAGE_BYTES

FEATURE_DIM = 2048  # of bottom-up features: decides which axis of x is which if nothing else does
INFO = {"class_ids": "objects_id", "scores": "objects_conf", "attr_ids": "attrs_id", "attr_scores": "attrs_conf"}
TEMPORARY = re.compile(r"\..*\.tmp\.np[yz]$")  # of `atomic_write`, left by a killed process
PER_IMAGE_READ_ERRORS = (*READ_ERRORS, IndexError, OverflowError)  # empty arrays, and infinity for a number of rows


class AmbiguousFormatError(ValueError):
    """A file can be read in two ways, and the user must choose one; the import stops."""


def iter_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Find the files below a folder with these suffixes, sorted by name.

    Links to folders are not followed.

    Yields:
        Id (path below the folder, without suffix) and path.
    """
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix in suffixes and not TEMPORARY.match(name):
                yield path.relative_to(folder).as_posix()[: -len(path.suffix)], path


def count(folder: Path) -> int:
    """Count the .npz files below a folder."""
    base = folder if folder.is_dir() and not list(folder.glob("*_att")) else _find_att_and_box(folder)[0]
    return sum(1 for _ in iter_files(base, (".npz",)))


def read_x(folder: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """Read files with the arrays x, bbox, image_w and image_h (MILVLG, MCAN).

    `info`, which is a pickle, is read only if it is allowed.
    """
    for name, path in iter_files(folder, (".npz",)):
        location = path.relative_to(folder).as_posix()
        try:
            yield SourceRecord(name, _read_x_fields(path, options), location)
        except AmbiguousFormatError:
            raise
        except PER_IMAGE_READ_ERRORS as error:
            if is_transient_error(error):
                raise
            yield InvalidSourceRecord(location, str(error), name)


def detect_variant(path: Path, options: ReadOptions) -> str:
    """Detect the format of a file: `milvlg` if x is (rows, d), `mcan` if it is (d, rows), empty without x.

    Raises:
        AmbiguousFormatError: Both are possible.
    """
    with Npz(path) as archive:
        if "x" not in archive.names:
            return ""
        shape = archive.header("x").shape
    return "milvlg" if _read_x_fields(path, options)["features"].shape == shape and not options.transposed else "mcan"


def _read_x_fields(path: Path, options: ReadOptions) -> dict[str, Any]:
    with Npz(path, options.allow_pickle, MAX_IMAGE_BYTES) as archive:
        names = set(archive.names)
        if "x" not in names:
            raise ValueError(f"{path} has no array 'x', only {', '.join(archive.names) or 'none'}")
        fields: dict[str, Any] = {"boxes": archive.read("bbox")} if "bbox" in names else {}
        rows = len(fields["boxes"]) if fields and fields["boxes"].ndim == 2 else None
        if "num_bbox" in names:
            rows = _read_num_boxes(archive, rows)
        fields["features"] = rows_first(archive.read("x"), rows, options.transposed, path)
        if {"image_w", "image_h"} <= names:
            fields["size"] = np.array([archive.read(key).reshape(-1)[0] for key in ("image_w", "image_h")])
        if "info" in names and "info" in options.allow_pickle:
            info = archive.read("info")
            info = info.item() if isinstance(info, np.ndarray) and info.size == 1 else info
            if not isinstance(info, dict):
                raise ValueError(f"{path}: info is {type(info).__name__}, not a dict")
            fields |= {name: _make_info_array(path, key, info[key]) for name, key in INFO.items() if key in info}
    return fields


def _make_info_array(path: Path, key: str, values: object) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{path}: info[{key!r}] is not an array of numbers ({error})") from error


def _read_num_boxes(archive: Npz, rows: int | None) -> int:
    values = archive.read("num_bbox").reshape(-1)
    if len(values) != 1 or values.dtype.kind not in "fiu" or not float(values[0]).is_integer():
        raise ValueError(f"{archive.path}: num_bbox is {values[:3].tolist()}, not one whole number")
    if rows is not None and rows != values[0]:
        raise ValueError(f"{archive.path}: num_bbox is {int(values[0])}, but there are {rows} boxes")
    return int(values[0])


def rows_first(x: np.ndarray, rows: int | None, transposed: bool | None, path: Path) -> np.ndarray:
    """Return x as (rows, d).

    The axis of the rows is the one whose length is the number of boxes, or else the one that is not 2,048 long.

    Args:
        x: Features, (rows, d) or (d, rows).
        rows: Number of boxes; None if it is unknown.
        transposed: Whether x is (d, rows); None detects it.
        path: The file, for the message.

    Raises:
        AmbiguousFormatError: Both axes are possible.
        ValueError: Neither axis is possible.
    """
    if x.ndim != 2:
        raise ValueError(f"{path}: x is {x.shape}, not (rows, d) or (d, rows)")
    if transposed is not None:
        return x.T if transposed else x
    first, second = ((x.shape[i] == rows) if rows is not None else (x.shape[1 - i] == FEATURE_DIM) for i in (0, 1))
    if first == second and (first or rows is None):
        raise AmbiguousFormatError(
            f"{path}: x is {x.shape}, and it is unknown which axis has the boxes. Pass --transposed yes for "
            "(d, boxes), as in MCAN, or --transposed no."
        )
    if not first and not second:
        raise ValueError(f"{path}: x is {x.shape}, but there are {rows} boxes")
    return x if first else x.T


def _find_att_and_box(source: Path) -> tuple[Path, Path]:
    """Find the folders of features and boxes: `source` has them (one `*_att`), or is their common prefix."""
    inside = sorted(source.glob("*_att")) if source.is_dir() else []
    att = inside[0] if len(inside) == 1 else source.with_name(source.name + "_att")
    if len(inside) > 1 or not att.is_dir():
        folders = ", ".join(path.name for path in inside) or "none"
        raise FileNotFoundError(
            f"{source} must have one folder *_att with the features, but it has {folders}. Pass the folder that has "
            "one, or the prefix, such as data/cocobu for data/cocobu_att and data/cocobu_box."
        )
    return att, att.with_name(att.name.removesuffix("_att") + "_box")


def read_att(source: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """Read `*_att/ID.npz` with `feat` or `z`, and `*_box/ID.npy` or .npz with boxes in pixels.

    These files have no image sizes.
    """
    att, box = _find_att_and_box(source)
    for name, path in iter_files(att, (".npz",)):
        location = f"{att.name}/{path.relative_to(att).as_posix()}"
        try:
            fields: dict[str, Any] = {"features": _read_one_array(path, ("feat", "z"))}
            fields["features"] = fields["features"].reshape(
                -1, fields["features"].shape[-1]
            )  # the cells of a grid are rows
            if box.is_dir():
                flat, packed = box / f"{name}.npy", box / f"{name}.npz"
                if not flat.exists() and not packed.exists():
                    raise ValueError(f"it has no boxes: {flat} and {packed.name} are missing")
                fields["boxes"] = (
                    load_npy(flat, MAX_IMAGE_BYTES)
                    if flat.exists()
                    else _read_one_array(packed, ("feat", "bbox", "boxes"))
                )
            yield SourceRecord(name, fields, location)
        except PER_IMAGE_READ_ERRORS as error:
            if is_transient_error(error):
                raise
            yield InvalidSourceRecord(location, str(error), name)


def _read_one_array(path: Path, names: tuple[str, ...]) -> np.ndarray:
    with Npz(path, max_bytes=MAX_IMAGE_BYTES) as archive:
        known = [name for name in names if name in archive.names] or (archive.names if len(archive.names) == 1 else [])
        if not known:
            raise ValueError(f"{path} has none of the arrays {', '.join(names)}, only {', '.join(archive.names)}")
        return archive.read(known[0])


def write_x(transposed: bool, target: Path, rows: ExportRows) -> None:
    """Write `ID.npz` with x, bbox, num_bbox, image_h, image_w; existing files are kept."""
    for name, fields in rows:
        path = safe_join(target, name, ".npz")
        if not path.exists():
            x = np.ascontiguousarray(fields["features"].T) if transposed else fields["features"]
            width, height = map(int, fields["size"])
            arrays = {
                "x": x,
                "bbox": fields["boxes"],
                "num_bbox": len(fields["boxes"]),
                "image_h": height,
                "image_w": width,
            }
            with atomic_write(path) as temporary, open(temporary, "wb") as file:
                write_npz(file, arrays)


def write_att(prefix: str, mean: bool, target: Path, rows: ExportRows) -> None:
    """Write `PREFIX_att/ID.npz`, `PREFIX_box/ID.npy` and, with `mean`, `PREFIX_fc/ID.npy`; see `write_x`."""
    for name, fields in rows:
        outputs: dict[Path, Any] = {safe_join(target / f"{prefix}_box", name, ".npy"): fields["boxes"]}
        if mean:
            outputs[safe_join(target / f"{prefix}_fc", name, ".npy")] = fields["features"].mean(0)
        outputs[safe_join(target / f"{prefix}_att", name, ".npz")] = {"feat": fields["features"]}
        for path, value in outputs.items():
            if not path.exists():
                with atomic_write(path) as temporary, open(temporary, "wb") as file:
                    if isinstance(value, dict):
                        write_npz(file, value)
                        continue
                    write_header(file, value.shape, value.dtype.str)
                    file.write(value.tobytes())  # `np.save` would hide the cause of a write error


_X = frozenset({"size", "boxes"})
MILVLG = Format("milvlg", "MILVLG, one .npz per image", read_x, partial(write_x, False), count, _X, is_folder=True)
MCAN = Format(
    "mcan", "MCAN, one .npz per image with x (d, rows)", read_x, partial(write_x, True), count, _X, is_folder=True
)
RUOTIANLUO = Format(
    "ruotianluo",
    "cocobu_att, cocobu_box, cocobu_fc",
    read_att,
    partial(write_att, "cocobu", True),
    count,
    frozenset({"boxes"}),
    is_prefix=True,
    is_folder=True,
)
TERN = replace(RUOTIANLUO, name="tern", title="bu_att, bu_box (TERN, TERAN)", write=partial(write_att, "bu", False))
