"""`{split}_ims.npy` of SCAN, VSE++ and their successors: (images, rows, d), with ids and sizes in sidecar files.

Matches kuanghuei/SCAN data.py. The original has neither boxes nor sizes; `{split}_boxes.npy` and
`{split}_img_sizes.npy` come from later forks. Captions (`{split}_caps.txt`) are not read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.config import ReadOptions
from data.formats.arrays import check_image_shape, map_npy, write_header
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord
from data.io.together import atomic_write_together
from data.text import read_lines

SUFFIX = "_ims.npy"
MAX_IDS_BYTES = 256 << 20


def _find_sources(path: Path) -> list[Path]:
    sources = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not sources or not all(source.name.endswith(SUFFIX) for source in sources):
        raise FileNotFoundError(
            f"{path} has no file that ends in {SUFFIX}. Pass such a file, or a folder with such files."
        )
    return sources


def _sidecar_path(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + suffix)


def read(path: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """Read one record per row of the first axis.

    Without `{split}_ids.txt` the id is the number of the row.
    """
    for source in _find_sources(path):
        split = source.name.removesuffix(SUFFIX)
        values = map_npy(source)
        if values.ndim not in (2, 3) or 0 in values.shape[1:]:
            raise ValueError(f"{source} is {values.shape}, not (images, rows, d) or (images, d). Write the file again.")
        check_image_shape(f"{source}: an image", (*values.shape[1:-1], 1)[:1] + values.shape[-1:], values.dtype)
        ids = _read_ids(source, len(values))
        boxes = _map_if_exists(_sidecar_path(source, "_boxes.npy"), (len(values), *values.shape[1:-1], 4))
        sizes = _map_if_exists(_sidecar_path(source, "_img_sizes.npy"), (len(values), 2))
        for number, name in enumerate(ids):
            features = np.array(values[number]).reshape(-1, values.shape[-1])
            fields: dict[str, Any] = {"features": features}
            if boxes is not None:
                fields["boxes"] = np.array(boxes[number]).reshape(-1, 4)
            if sizes is not None:
                fields["size"] = np.array(sizes[number])
            yield SourceRecord(name, fields, f"{source.name} row {number}", split)


def _map_if_exists(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    if not path.exists():
        return None
    values = map_npy(path)
    if values.shape != shape:
        raise ValueError(f"{path} is {values.shape}, but the features require {shape}")
    return values


def _read_ids(source: Path, images: int) -> list[str]:
    path = _sidecar_path(source, "_ids.txt")
    if not path.exists():
        return [str(number) for number in range(images)]
    if path.stat().st_size > MAX_IDS_BYTES:
        raise ValueError(f"{path} has more than {MAX_IDS_BYTES:,} bytes; it must have one line per image")
    ids = [line.strip("\r\n") for line in read_lines(path)]
    if len(ids) != images:
        raise ValueError(
            f"{path} has {len(ids):,} lines, but {source} has {images:,} images; it must have one line per image"
        )
    return ids


def write(target: Path, rows: ExportRows) -> None:
    """Write `{split}_ims.npy` with ids, boxes and sizes in sidecar files."""
    if not target.name.endswith(SUFFIX):
        raise ValueError(f"{target} does not end in {SUFFIX}. Pass, for example, --output test{SUFFIX}.")
    number = rows.fixed_rows("Export in another format, such as lxmert-tsv or vqa-h5-adaptive.")
    with atomic_write_together([*_list_sidecar_files(target), target]) as (ids, boxes, sizes, features):
        ids.write_text("".join(f"{name}\n" for name in rows.ids), encoding="utf-8")
        for path, field, shape, dtype in ((boxes, "boxes", (number, 4), "<f4"), (sizes, "size", (2,), "<i4")):
            with open(path, "wb") as file:
                write_header(file, (len(rows), *shape), dtype)
                for name in rows.names:
                    file.write(rows.store.read(field, [name]).astype(dtype).tobytes())
        with open(features, "wb") as file:
            write_header(file, (len(rows), number, rows.dim), "<f4")
            for _, fields in rows:
                file.write(fields["features"].tobytes())


def _list_sidecar_files(target: Path) -> list[Path]:
    return [_sidecar_path(target, suffix) for suffix in ("_ids.txt", "_boxes.npy", "_img_sizes.npy")]


def count(path: Path) -> int:
    """Count the images by the headers."""
    return sum(values.shape[0] if values.ndim else 0 for values in map(map_npy, _find_sources(path)))


PRECOMP = Format(
    "precomp",
    "SCAN, VSE++ {split}_ims.npy",
    read,
    write,
    count,
    frozenset({"boxes", "size"}),
    sidecar_files=_list_sidecar_files,
    suffix=SUFFIX,
    fixed_rows=True,
)
