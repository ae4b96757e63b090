"""Bottom-up attention as tab-separated text, arrays in base64: the Caffe original's columns, and LXMERT's.

Written as Python's csv.DictWriter does in peteanderson80/bottom-up-attention tools/generate_tsv.py and in
airsplay/py-bottom-up-attention: no header, lines end in CR LF, arrays little-endian.
"""

import base64
import binascii
import csv
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.config import ReadOptions
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord
from data.io.files import atomic_write

CELL = re.compile(r'(?:"((?:[^"]|"")*)"|([^"\t][^\t]*|))(?=\t|$)')
MAX_LINE = 64 << 20  # bytes: 100 rows of 2,048 numbers are 1.1 MB
CAFFE = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes")


LXMERT += ("boxes", "features")


ARRAYS = {  # column -> field of a region store, dtype in the file, numbers a row (-1: whatever comes out)
    "objects_id": ("class_ids", "<i8", 0),
    "objects_conf": ("scores", "<f4", 0),
    "attrs_id": ("attr_ids", "<i8", 0),
    "attrs_conf": ("attr_scores", "<f4", 0),
    "boxes": ("boxes", "<f4", 4),
    "features": ("features", "<f4", -1),
}


def read(columns: tuple[str, ...], path: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """One record a line; memory is one line. A line that cannot be read is a `Broken` with its number."""
    with open(path, "rb") as file:
        for number, line in enumerate(_lines(file), 1):
            place, cells = f"{path.name} line {number}", [""]
            try:
                cells = _cells(line)
                if len(cells) != len(columns):
                    raise ValueError(f"it has {len(cells)} columns, not {len(columns)}: half a line?")
                yield _record(dict(zip(columns, cells, strict=True)), place)
            except ValueError as error:
                yield InvalidSourceRecord(place, str(error), cells[0][:200] if len(cells) > 1 else "")


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that is too long."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield None
        elif line.strip():
            yield line.rstrip(b"\r\n")


def _cells(line: bytes | None) -> list[str]:
    if line is None:
        raise ValueError(f"the line has more than {MAX_LINE:,} bytes")
    return _split(line.decode("utf-8"))  # UnicodeDecodeError is a ValueError


def _split(text: str) -> list[str]:
    """Cells of a line as csv splits it, whose reader has a limit on their length, one for the whole process."""
    if '"' not in text:
        return text.split("\t")
    cells, place = [], 0
    while place <= len(text):
        found = CELL.match(text, place)
        if found is None:
            raise ValueError("a quotation mark opens a column and does not close it")
        cells.append(found[1].replace('""', '"') if found[1] is not None else found[2])
        place = found.end() + 1
    return cells


def _record(row: dict[str, str], place: str) -> SourceRecord:
    width, height = (_count(row, key) for key in (("img_w", "img_h") if "img_w" in row else ("image_w", "image_h")))
    rows = _count(row, "num_boxes")
    fields: dict[str, Any] = {"size": np.array([width, height])}
    for column, (name, dtype, width) in ARRAYS.items():
        if column in row:
            fields[name] = _array(column, row[column], dtype, rows, width)
    return SourceRecord(row.get("img_id", row.get("image_id", "")), fields, place)


def _count(row: dict[str, str], key: str) -> int:
    text = row[key].strip()
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise ValueError(f"{key} is {text[:40]!r}, not a whole number above 0")
    return int(text)


def _array(column: str, text: str, dtype: str, rows: int, width: int) -> np.ndarray:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{column} is not base64 ({error})") from error
    size = np.dtype(dtype).itemsize * rows
    expected = f"{size * max(1, width):,}" if width >= 0 else f"a multiple of {size:,}"
    if len(data) != size * max(1, width) if width >= 0 else not data or len(data) % size:
        raise ValueError(f"{column} has {len(data):,} bytes, and {rows} boxes need {expected}")
    values = np.frombuffer(data, dtype)
    return values.reshape(rows, -1) if width else values


def write(columns: tuple[str, ...], target: Path, rows: ExportRows, over: bool) -> None:
    """All images, one line each; the file is whole or absent."""
    with atomic_write(target) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t")
        for name, fields in rows:
            width, height = map(int, fields["size"])
            row = {"num_boxes": len(fields["features"]), "img_id": name, "image_id": name}
            row |= {"img_w": width, "image_w": width, "img_h": height, "image_h": height}
            row |= {column: _base64(fields[field], dtype) for column, (field, dtype, _) in ARRAYS.items()}
            writer.writerow({column: row[column] for column in columns})


def _base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype)).decode("ascii")


def count(path: Path) -> int:
    """Images, from the length of the first line."""
    with open(path, "rb") as file:
        first = len(file.readline(MAX_LINE))
    return -(-path.stat().st_size // first) if first else 0


def count_columns(path: Path) -> int:
    """Columns of the first line: 6 are the original's, 10 LXMERT's."""
    with open(path, "rb") as file:
        return file.readline(MAX_LINE).count(b"\t") + 1


_BOTH = frozenset({"size", "boxes"})
BUTD = Format(
    "butd-tsv", "bottom-up attention TSV", partial(read, CAFFE), partial(write, CAFFE), count, _BOTH, suffix=".tsv"
)
LXMERT_TSV = Format(
    "lxmert-tsv",
    "LXMERT TSV (*_obj36.tsv)",
    partial(read, LXMERT),
    partial(write, LXMERT),
    count,
    _BOTH | {"class_ids", "scores", "attr_ids", "attr_scores"},
    suffix=".tsv",
)
