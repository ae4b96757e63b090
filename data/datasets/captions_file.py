"""Captions file of `data`."""

import csv
import json
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from data.config import DatasetConfig
from data.datasets.entry import _Entry
from data.images.folder import iter_image_files
from data.io.digests import sha256_text
from data.text import escape_invalid_text


def _folder(config: DatasetConfig) -> Iterable[_Entry]:
    """Rows of a captions file, grouped by image; images of the folder without a row come last, without captions."""
    found: dict[Any, _Entry] = {}
    problems: list[_Entry] = []
    for place, row in _rows(config.annotations):
        if not isinstance(row, dict) or not isinstance(row.get("image"), str):
            problems.append(_Entry(place, "", "train", problem="the row has no text field `image`"))
            continue
        name = posixpath.normpath(row["image"])  # ./a.jpg is a.jpg
        if None in row:
            reason = "the row has more fields than the first line names; put captions with commas into quotes"
            problems.append(_Entry(f"{name} at {place}", "", "train", problem=reason))
            continue
        entry = found.setdefault(name, _Entry(name, name, row.get("split") or _split_of(name)))
        if not row.get("split") or row["split"] == entry.split:
            several = row.get("captions")
            entry.texts.extend(several if isinstance(several, list) else [several] if several is not None else [])
            if "caption" in row or several is None:
                entry.texts.append(row.get("caption"))
        else:
            problems.append(
                _Entry(
                    f"{name} at {place}",
                    "",
                    "train",
                    problem=f"split {row['split']!r} contradicts {entry.split!r}",
                )
            )
    for name, problem in iter_image_files(config.images):
        if problem:
            problems.append(_Entry(name, "", "train", problem=problem))
        elif name not in found:
            found[name] = _Entry(name, name, _split_of(name))
    return [*found.values(), *problems]


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) of a .jsonl or .csv file; a line that is not JSON is a row of None."""
    read = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: a captions file ends in .jsonl or .csv.")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from read(path, file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}. Save it as UTF-8 text.") from error


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(file)
    if "image" not in (reader.fieldnames or ()):
        raise ValueError(f"{path}: the first line must name the columns image, caption; it is {reader.fieldnames}.")
    yield from ((f"line {reader.line_num}", row) for row in reader)


def _json_rows(path: Path, file: TextIO) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"line {number}", _json_or_none(line)


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None


def _split_of(name: str) -> str:
    """A split for an image whose file names none: 90 % train, 5 % val, 5 % test, by the hash of its name."""
    return {0: "val", 1: "test"}.get(int(sha256_text(escape_invalid_text(name))[:8], 16) % 20, "train")
