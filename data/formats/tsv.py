"""Tab-separated text with arrays in base64: the columns of bottom-up attention (Caffe), and those of LXMERT.

Matches the csv.DictWriter of peteanderson80/bottom-up-attention tools/generate_tsv.py and of
airsplay/py-bottom-up-attention: no header, lines end in CR LF, arrays are little-endian.
"""

import base64
import binascii
import codecs
import csv
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.config import ReadOptions
from data.formats.base import ExportRows, Format, InvalidSourceRecord, SourceRecord
from data.formats.names import parse_id
from data.io.files import atomic_write

CELL = re.compile(r'(?:"((?:[^"]|"")*)"|([^"\t][^\t]*|))(?=\t|$)')
MAX_LINE = 64 << 20  # bytes; 100 rows of 2,048 numbers have 1.1 MB
GZIP = b"\x1f\x8b"
MAX_TABS = 100  # in a line: 9 between the columns, and those within quotation marks
CAFFE = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
# Column -> field of a region store, dtype in the file, values per row (0: one, without an axis; -1: any number).
ARRAYS = {
    "objects_id": ("class_ids", "<i8", 0),
    "objects_conf": ("scores", "<f4", 0),
    "attrs_id": ("attr_ids", "<i8", 0),
    "attrs_conf": ("attr_scores", "<f4", 0),
    "boxes": ("boxes", "<f4", 4),
    "features": ("features", "<f4", -1),
}


def read(columns: tuple[str, ...], path: Path, options: ReadOptions) -> Iterator[SourceRecord | InvalidSourceRecord]:
    """Read one record per line, with one line in memory; an invalid line becomes an `InvalidSourceRecord`."""
    with open(path, "rb") as file:
        if file.read(len(GZIP)) == GZIP:
            raise ValueError(f"{path} is compressed (gzip). Decompress it first.")
        file.seek(0)
        for number, line in enumerate(_iter_lines(file), 1):
            location, cells = f"{path.name} line {number}", [""]
            try:
                cells = _decode_line(line)
                if len(cells) != len(columns):
                    raise ValueError(f"it has {len(cells)} columns, not {len(columns)}; the line may be cut")
                yield _parse_record(dict(zip(columns, cells, strict=True)), location)
            except ValueError as error:
                yield InvalidSourceRecord(location, str(error), cells[0][:200] if len(cells) > 1 else "")


def _iter_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines without their ends; None for a line that is too long."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield None
        elif line.strip():
            yield line.rstrip(b"\r\n")


def _decode_line(line: bytes | None) -> list[str]:
    if line is None:
        raise ValueError(f"the line has more than {MAX_LINE:,} bytes")
    if (tabs := line.count(b"\t")) > MAX_TABS:
        raise ValueError(f"it has {tabs + 1:,} columns")
    return _split_cells(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))  # UnicodeDecodeError is a ValueError


def _split_cells(text: str) -> list[str]:
    """Split a line as `csv` does.

    The length limit of `csv` holds for the whole process, so it is not used here.
    """
    if '"' not in text:
        return text.split("\t")
    cells, position = [], 0
    while position <= len(text):
        match = CELL.match(text, position)
        if match is None:
            raise ValueError("a quotation mark opens a column, and no other one closes it")
        cells.append(match[1].replace('""', '"') if match[1] is not None else match[2])
        position = match.end() + 1
    return cells


def _parse_record(row: dict[str, str], location: str) -> SourceRecord:
    width, height = (
        _parse_count(row, key) for key in (("img_w", "img_h") if "img_w" in row else ("image_w", "image_h"))
    )
    rows = _parse_count(row, "num_boxes")
    fields: dict[str, Any] = {"size": np.array([width, height])}
    for column, (name, dtype, per_row) in ARRAYS.items():
        if column in row:
            fields[name] = _decode_array(column, row[column], dtype, rows, per_row)
    return SourceRecord(parse_id(row.get("img_id", row.get("image_id", ""))), fields, location)


def _parse_count(row: dict[str, str], key: str) -> int:
    text = row[key].strip()
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise ValueError(f"{key} is {text[:40]!r}, not a whole number above 0")
    return int(text)


def _decode_array(column: str, text: str, dtype: str, rows: int, per_row: int) -> np.ndarray:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{column} is not base64 ({error})") from error
    size = np.dtype(dtype).itemsize * rows
    expected = f"{size * max(1, per_row):,}" if per_row >= 0 else f"a multiple of {size:,}"
    if len(data) != size * max(1, per_row) if per_row >= 0 else not data or len(data) % size:
        raise ValueError(f"{column} has {len(data):,} bytes, but {rows} boxes require {expected}")
    values = np.frombuffer(data, dtype)
    return values.reshape(rows, -1) if per_row else values


def write(columns: tuple[str, ...], target: Path, rows: ExportRows) -> None:
    """Write one line per image, atomically."""
    with atomic_write(target) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t")
        for name, fields in rows:
            width, height = map(int, fields["size"])
            row = {"num_boxes": len(fields["features"]), "img_id": name, "image_id": name}
            row |= {"img_w": width, "image_w": width, "img_h": height, "image_h": height}
            row |= {column: _encode_base64(fields[field], dtype) for column, (field, dtype, _) in ARRAYS.items()}
            writer.writerow({column: row[column] for column in columns})


def _encode_base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).data).decode("ascii")


def count(path: Path) -> int:
    """Estimate the number of images from the length of the first line."""
    with open(path, "rb") as file:
        first = len(file.readline(MAX_LINE))
    return -(-path.stat().st_size // first) if first else 0


def count_columns(path: Path) -> int:
    """Count the columns of the first line: 6 in the Caffe format, 10 in that of LXMERT."""
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
