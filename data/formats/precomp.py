"""`{split}_ims.npy` of SCAN, VSE++ and those after them: (images, rows, width), ids and sizes in files beside it.

Matched: kuanghuei/SCAN data.py. The original has neither boxes nor sizes; `{split}_boxes.npy` and
`{split}_img_sizes.npy` are those of later forks. Captions (`{split}_caps.txt`) are no features and are left alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.config import ReadOptions
from data.formats.arrays import map_npy, write_header
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord, start_export
from data.io.files import atomic_write, write_text

SUFFIX = "_ims.npy"
MAX_IDS_BYTES = 256 << 20


def _sources(path: Path) -> list[Path]:
    found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not found or not all(p.name.endswith(SUFFIX) for p in found):
        raise FileNotFoundError(f"{path}: give a file that ends in {SUFFIX}, or a folder with such files")
    return found


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + suffix)


def read(path: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """One record a row of the first axis; without `{split}_ids.txt` the id is the row's number."""
    for source in _sources(path):
        split = source.name.removesuffix(SUFFIX)
        values = map_npy(source)
        if values.ndim not in (2, 3):
            raise ValueError(f"{source} is {values.shape}; (images, rows, width) or (images, width) is needed")
        ids = _ids(source, len(values))
        boxes = _optional(_beside(source, "_boxes.npy"), (len(values), *values.shape[1:-1], 4))
        sizes = _optional(_beside(source, "_img_sizes.npy"), (len(values), 2))
        for number, name in enumerate(ids):
            features = np.array(values[number]).reshape(-1, values.shape[-1])
            fields: dict[str, Any] = {"features": features}
            if boxes is not None:
                fields["boxes"] = np.array(boxes[number]).reshape(-1, 4)
            if sizes is not None:
                fields["size"] = np.array(sizes[number])
            yield SourceRecord(name, fields, f"{source.name} row {number}", split)


def _optional(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    if not path.exists():
        return None
    values = map_npy(path)
    if values.shape != shape:
        raise ValueError(f"{path} is {values.shape}, and {shape} belongs to the features beside it")
    return values


def _ids(source: Path, images: int) -> list[str]:
    path = _beside(source, "_ids.txt")
    if not path.exists():
        return [str(number) for number in range(images)]
    if path.stat().st_size > MAX_IDS_BYTES:
        raise ValueError(f"{path} has more than {MAX_IDS_BYTES:,} bytes; it holds a line an image")
    ids = [line.strip("\r\n") for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
    if len(ids) != images:
        raise ValueError(f"{path} has {len(ids):,} lines, {source} {images:,} images: give it a line an image")
    return ids


def write(target: Path, rows: ExportRows, over: bool) -> None:
    """`{split}_ims.npy` with ids, boxes and sizes beside it, the features last."""
    if not target.name.endswith(SUFFIX):
        raise ValueError(f"{target}: this format's file ends in {SUFFIX}; give for instance test{SUFFIX}")
    number = rows.fixed_rows("choose another format, such as lxmert-tsv or vqa-h5-adaptive")
    store, names = rows.store, rows.names
    start_export(target)
    write_text(_beside(target, "_ids.txt"), "".join(f"{name}\n" for name in rows.ids))
    for suffix, field, shape in (("_boxes.npy", "boxes", (number, 4)), ("_img_sizes.npy", "size", (2,))):
        dtype = "<f4" if field == "boxes" else "<i4"
        with atomic_write(_beside(target, suffix)) as temporary, open(temporary, "wb") as file:
            write_header(file, (len(rows), *shape), dtype)
            for name in names:
                file.write(store.read(field, [name]).astype(dtype).tobytes())
    with atomic_write(target) as temporary, open(temporary, "wb") as file:
        write_header(file, (len(rows), number, rows.dim), "<f4")
        for _, fields in rows:
            file.write(fields["features"].tobytes())


def count(path: Path) -> int:
    """Images, from the headers."""
    return sum(len(map_npy(source)) for source in _sources(path))


PRECOMP = Format(
    "precomp",
    "SCAN, VSE++ {split}_ims.npy",
    read,
    write,
    count,
    frozenset({"boxes", "size"}),
    sidecar_files=lambda target: [_beside(target, suffix) for suffix in ("_ids.txt", "_boxes.npy", "_img_sizes.npy")],
    suffix=SUFFIX,
    fixed_rows=True,
)
