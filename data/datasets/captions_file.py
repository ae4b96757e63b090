"""Reader of a folder of images with a captions file: .csv or .jsonl with the fields image, caption(s) and split."""

import csv
import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from data.config import DatasetConfig
from data.datasets.entry import Entry, make_invalid_entry
from data.images.folder import iter_image_files
from data.io.digests import sha256_text
from data.text import escape_invalid_text


def read_captions_file(config: DatasetConfig) -> list[Entry]:
    """Read the rows of a captions file, grouped by image; images without a row follow, without captions.

    Raises:
        ValueError: The captions file is not UTF-8 text in one of the two formats.
    """
    entries: dict[str, Entry] = {}
    invalid: list[Entry] = []
    for location, row in _iter_rows(config.annotations):
        if problem := _add_row(row, entries):
            name = f"{_get_name(row)} at {location}" if _has_name(row) else location
            invalid.append(make_invalid_entry(name, problem))
    for name, problem in iter_image_files(config.images):
        if problem:
            invalid.append(make_invalid_entry(name, problem))
        elif name not in entries:
            entries[name] = Entry(name, name, _choose_split(name))
    return [*entries.values(), *invalid]


def _has_name(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("image"), str)


def _get_name(row: dict[str, Any]) -> str:
    return posixpath.normpath(row["image"])  # ./a.jpg is a.jpg


def _add_row(row: Any, entries: dict[str, Entry]) -> str:
    """Add the captions of a row to the entry of its image.

    Returns why the row is invalid, or an empty text.
    """
    if not _has_name(row):
        return "the row has no text field `image`"
    if None in row:  # where `csv` puts the fields that have no column
        return "the row has more fields than the first line has columns; put captions with commas into quotes"
    name = _get_name(row)
    entry = entries.setdefault(name, Entry(name, name, row.get("split") or _choose_split(name)))
    if row.get("split") and row["split"] != entry.split:
        return f"split {row['split']!r} contradicts {entry.split!r}"
    captions = row.get("captions")
    entry.texts.extend(captions if isinstance(captions, list) else [captions] if captions is not None else [])
    if "caption" in row or captions is None:
        entry.texts.append(row.get("caption"))
    return ""


def _iter_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (location, row) of a captions file; the row is None for a line that is not JSON."""
    read = {".csv": _iter_csv_rows, ".jsonl": _iter_json_rows, ".ndjson": _iter_json_rows}.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path} is not a captions file. Set `annotations` to a file that ends in .jsonl or .csv.")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from read(path, file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}. Save it as UTF-8 text.") from error


def _iter_csv_rows(path: Path, file: TextIO) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(file)
    if "image" not in (reader.fieldnames or ()):
        raise ValueError(
            f"The first line of {path} is {reader.fieldnames}. It must name the columns image, caption and, "
            "optionally, split."
        )
    yield from ((f"line {reader.line_num}", row) for row in reader)


def _iter_json_rows(path: Path, file: TextIO) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"line {number}", _parse_json(line)


def _parse_json(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None


def _choose_split(name: str) -> str:
    """Choose a split by the hash of the file name: 90 % train, 5 % val, 5 % test."""
    return {0: "val", 1: "test"}.get(int(sha256_text(escape_invalid_text(name))[:8], 16) % 20, "train")
