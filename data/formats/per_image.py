"""A file an image: MILVLG's and MCAN's npz, and the att/box folders of ruotianluo, TERN and TERAN.

Matched: MILVLG/bottom-up-attention.pytorch utils/extract_utils.py, MILVLG/mcan-vqa core/data (x is transposed there),
ruotianluo/ImageCaptioning.pytorch captioning/data/dataloader.py, mesnico/TERAN data.py.
"""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.config import ReadOptions
from data.formats.arrays import READ_ERRORS, Npz, is_transient_error, load_npy, write_npz
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord
from data.formats.names import safe_join
from data.io.files import atomic_write

FEATURE_DIM = 2048  # of bottom-up features: tells the axes of x apart where nothing else does
INFO = {"class_ids": "objects_id", "scores": "objects_conf", "attr_ids": "attrs_id", "attr_scores": "attrs_conf"}
TEMPORARY = re.compile(r"\..*\.tmp\.np[yz]$")  # of data.files.atomic, left by a process that was killed
PER_IMAGE_READ_ERRORS = (*READ_ERRORS, IndexError, OverflowError)  # empty arrays, and infinity for a number of rows


class AmbiguousFormatError(ValueError):
    """A file that can be read in two ways: the run stops, for the user must say which."""


def iter_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(id, file) below a folder, sorted by name; the id is the path below it without the suffix. Links lead nowhere."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix in suffixes and not TEMPORARY.match(name):
                yield path.relative_to(folder).as_posix()[: -len(path.suffix)], path


def count(folder: Path) -> int:
    """Files of arrays below a folder."""
    base = folder if folder.is_dir() and not list(folder.glob("*_att")) else _folders(folder)[0]
    return sum(1 for _ in iter_files(base, (".npz",)))


def read_x(folder: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """Files with the arrays x, bbox, image_w, image_h (MILVLG, MCAN); `info`, a pickle, only if it is allowed."""
    for name, path in iter_files(folder, (".npz",)):
        place = path.relative_to(folder).as_posix()
        try:
            yield SourceRecord(name, _x_fields(path, options), place)
        except AmbiguousFormatError:
            raise
        except PER_IMAGE_READ_ERRORS as error:
            if is_transient_error(error):
                raise
            yield InvalidSourceRecord(place, str(error), name)


def detect_variant(path: Path, options: ReadOptions) -> str:
    """`mcan` if x of a file is stored (width, rows), `milvlg` if (rows, width), "" if there is no x.

    Raises Ambiguous if it may be either.
    """
    with Npz(path) as archive:
        if "x" not in archive.names:
            return ""
        shape = archive.header("x").shape
    return "milvlg" if _x_fields(path, options)["features"].shape == shape and not options.transposed else "mcan"


def _x_fields(path: Path, options: ReadOptions) -> dict[str, Any]:
    with Npz(path, options.allow_pickle) as archive:
        have = set(archive.names)
        if "x" not in have:
            raise ValueError(f"{path} has no array 'x'; it has {', '.join(archive.names) or 'none'}")
        fields: dict[str, Any] = {"boxes": archive.read("bbox")} if "bbox" in have else {}
        rows = len(fields["boxes"]) if fields and fields["boxes"].ndim == 2 else None
        if rows is None and "num_bbox" in have:
            rows = int(archive.read("num_bbox").reshape(-1)[0])
        fields["features"] = rows_first(archive.read("x"), rows, options.transposed, path)
        if {"image_w", "image_h"} <= have:
            fields["size"] = np.array([archive.read(key).reshape(-1)[0] for key in ("image_w", "image_h")])
        if "info" in have and "info" in options.allow_pickle:
            info = archive.read("info")
            info = info.item() if isinstance(info, np.ndarray) and info.size == 1 else info
            if not isinstance(info, dict):
                raise ValueError(f"{path}: info is {type(info).__name__}, not a dict")
            fields |= {name: np.asarray(info[key]) for name, key in INFO.items() if key in info}
    return fields


def rows_first(x: np.ndarray, rows: int | None, transposed: bool | None, path: Path) -> np.ndarray:
    """x as (rows, width), whichever way it is stored: the side that is as long as there are boxes is that of the rows.

    Without boxes the side of 2,048 is the width. Raises Ambiguous where both sides would do.
    """
    if x.ndim != 2:
        raise ValueError(f"{path}: x is {x.shape}, not (rows, width) or (width, rows)")
    if transposed is not None:
        return x.T if transposed else x
    first, second = ((x.shape[i] == rows) if rows is not None else (x.shape[1 - i] == FEATURE_DIM) for i in (0, 1))
    if first == second and (first or rows is None):
        raise AmbiguousFormatError(
            f"{path}: x is {x.shape}, and nothing tells which side is that of the boxes; say --transposed yes for "
            "(width, boxes) as MCAN stores it, or --transposed no"
        )
    if not first and not second:
        raise ValueError(f"{path}: x is {x.shape}, and there are {rows} boxes")
    return x if first else x.T


def _folders(source: Path) -> tuple[Path, Path]:
    """The folders of features and boxes: `source` holds them (one `*_att`), or is their common prefix."""
    inside = sorted(source.glob("*_att")) if source.is_dir() else []
    att = inside[0] if len(inside) == 1 else source.with_name(source.name + "_att")
    if len(inside) > 1 or not att.is_dir():
        found = f"several: {', '.join(p.name for p in inside)}" if inside else "none"
        raise FileNotFoundError(
            f"{source}: one folder *_att with the features is needed, there is {found}; give the folder that holds it, "
            "or the prefix, such as data/cocobu for data/cocobu_att and data/cocobu_box"
        )
    return att, att.with_name(att.name.removesuffix("_att") + "_box")


def read_att(source: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """`*_att/ID.npz` with `feat` (or `z`) and `*_box/ID.npy` or .npz with boxes in pixels; no image sizes."""
    att, box = _folders(source)
    for name, path in iter_files(att, (".npz",)):
        place = f"{att.name}/{path.relative_to(att).as_posix()}"
        try:
            fields: dict[str, Any] = {"features": _one_array(path, ("feat", "z"))}
            fields["features"] = fields["features"].reshape(-1, fields["features"].shape[-1])  # a grid is rows, too
            if box.is_dir():
                flat, packed = box / f"{name}.npy", box / f"{name}.npz"
                fields["boxes"] = load_npy(flat) if flat.exists() else _one_array(packed, ("feat", "bbox", "boxes"))
            yield SourceRecord(name, fields, place)
        except PER_IMAGE_READ_ERRORS as error:
            if is_transient_error(error):
                raise
            yield InvalidSourceRecord(place, str(error), name)


def _one_array(path: Path, names: tuple[str, ...]) -> np.ndarray:
    with Npz(path) as archive:
        known = [name for name in names if name in archive.names] or (archive.names if len(archive.names) == 1 else [])
        if not known:
            raise ValueError(f"{path} has none of the arrays {', '.join(names)}; it has {', '.join(archive.names)}")
        return archive.read(known[0])


def write_x(transposed: bool, target: Path, rows: ExportRows, over: bool) -> None:
    """`ID.npz` with x, bbox, num_bbox, image_h, image_w; files that are there are taken for done, unless `over`."""
    for name, f in rows:
        path = safe_join(target, name, ".npz")
        if over or not path.exists():
            x = np.ascontiguousarray(f["features"].T) if transposed else f["features"]
            width, height = map(int, f["size"])
            arrays = {"x": x, "bbox": f["boxes"], "num_bbox": len(f["boxes"]), "image_h": height, "image_w": width}
            with atomic_write(path) as temporary, open(temporary, "wb") as file:
                write_npz(file, arrays)


def write_att(prefix: str, mean: bool, target: Path, rows: ExportRows, over: bool) -> None:
    """`PREFIX_att/ID.npz`, `PREFIX_box/ID.npy` and, with `mean`, `PREFIX_fc/ID.npy`; done is as in `write_x`."""
    for name, f in rows:
        outputs: dict[Path, Any] = {safe_join(target / f"{prefix}_box", name, ".npy"): f["boxes"]}
        if mean:
            outputs[safe_join(target / f"{prefix}_fc", name, ".npy")] = f["features"].mean(0)
        outputs[safe_join(target / f"{prefix}_att", name, ".npz")] = {"feat": f["features"]}
        for path, value in outputs.items():
            if over or not path.exists():
                with atomic_write(path) as temporary, open(temporary, "wb") as file:
                    write_npz(file, value) if isinstance(value, dict) else np.save(file, value)


_X = frozenset({"size", "boxes"})
MILVLG = Format("milvlg", "MILVLG npz an image", read_x, partial(write_x, False), count, _X, is_folder=True)
MCAN = Format("mcan", "MCAN npz an image, x (width, rows)", read_x, partial(write_x, True), count, _X, is_folder=True)
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
TERN = Format(
    "tern",
    "bu_att, bu_box (TERN, TERAN)",
    read_att,
    partial(write_att, "bu", False),
    count,
    frozenset({"boxes"}),
    is_prefix=True,
    is_folder=True,
)
