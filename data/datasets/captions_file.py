"""Reader of a folder of images with a captions file: .csv, .tsv or .jsonl with image, caption(s) and split."""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from data.config import DatasetConfig
from data.datasets.entry import Annotations, Entry, InvalidText, make_invalid_entry
from data.datasets.fields import (
    CAPTION_FIELDS,
    describe_unknown,
    find_name_problem,
    find_unread_split,
    normalize_name,
)
from data.datasets.folder_tree import scan_dataset_folder
from data.datasets.table_file import iter_table_rows
from data.io.json_text import parse_json
from data.text import detect_encoding, find_invalid_line, iter_lines, printable

TABLE_SUFFIXES, JSON_SUFFIXES = (".csv", ".tsv"), (".jsonl", ".ndjson")
CAPTIONS_SUFFIXES = (*TABLE_SUFFIXES, *JSON_SUFFIXES)


@dataclass(frozen=True)
class _Row:
    """One row of a captions file."""

    location: str
    values: dict[str, Any]
    """Values by normalized field name; empty if the row cannot be read."""
    problem: str = ""
    """Why the row cannot be used; empty if it can."""
    is_split_lost: bool = False
    """Whether the row has a split that cannot be read, so that none may be drawn for its image."""

    @property
    def split(self) -> Any:
        """Split of the image; None if the field is missing or empty, which says nothing."""
        split = self.values.get("split")
        return None if split == "" else split

    @property
    def captions(self) -> list[Any]:
        """Captions of the fields `captions`, which may be a list, and `caption`."""
        captions = self.values.get("captions")
        texts = list(captions) if isinstance(captions, list) else [captions] if captions is not None else []
        if "caption" in self.values:
            texts.append(self.values["caption"])
        elif captions is None:
            is_null = "captions" in self.values
            texts.append(InvalidText("the caption is null" if is_null else "the row has no field `caption`"))
        return texts


@dataclass
class _Reading:
    """Rows so far."""

    root: Path
    rows: dict[str, list[_Row]] = field(default_factory=dict)
    """Rows by image."""
    invalid: list[Entry] = field(default_factory=list)
    field_names: dict[str, None] = field(default_factory=dict)
    """All field names, in the order of the file."""

    def add(self, row: _Row) -> None:
        """Add a row to those of its image, or to the invalid entries."""
        self.field_names |= dict.fromkeys(row.values)
        image = row.values.get("image")
        if not isinstance(image, str) or not image.strip():
            self.invalid.append(make_invalid_entry(row.location, row.problem or "the row has no text field `image`"))
            return
        name = self._make_id(image)
        if row.problem and not row.is_split_lost:
            self.invalid.append(make_invalid_entry(f"{name} at {row.location}", row.problem))
        else:
            self.rows.setdefault(name, []).append(row)

    def _make_id(self, image: str) -> str:
        """Return the path below the folder of images: ./a.jpg is a.jpg, and so is the absolute path of a.jpg."""
        name = posixpath.normpath(image)
        if os.path.isabs(name) and "\0" not in name and Path(name).is_relative_to(self.root):
            return Path(name).relative_to(self.root).as_posix()
        return name

    def make_entries(self) -> dict[str, Entry]:
        """Make one entry per image. Rows that contradict its split become invalid entries."""
        return {name: self._make_entry(name, rows) for name, rows in self.rows.items()}

    def _make_entry(self, name: str, rows: list[_Row]) -> Entry:
        if lost := next((row for row in rows if row.is_split_lost), None):
            return Entry(f"{name} at {lost.location}", name, None, problem=lost.problem)
        decisive = max(rows, key=_rank_split)  # independent of the order of the rows
        entry = Entry(name, name, decisive.split)
        for row in rows:
            if row.split is None or row.split == entry.split:
                entry.texts.extend(row.captions)
            else:
                problem = f"split {row.split!r} contradicts {entry.split!r} at {decisive.location}; write one into both"
                self.invalid.append(make_invalid_entry(f"{name} at {row.location}", problem))
        return entry


def _rank_split(row: _Row) -> int:
    """Rank the split of a row: an unknown one first, then test, val and train; an image of test is never trained on."""
    known = (None, "train", "restval", "val", "test")
    return known.index(row.split) if row.split in known else len(known)


def read_captions_file(config: DatasetConfig) -> Annotations:
    """Read the rows of a captions file, grouped by image; images without a row follow, without captions.

    Raises:
        ValueError: The captions file is not text in one of the formats, or it would lose what its author means: a
            column is missing, misspelled or occurs twice, or a quotation mark is not closed.
    """
    path, reading = config.annotations, _Reading(config.images.absolute())
    assert path is not None, "a dataset without annotations is read by `read_folder_tree`"
    for row in _iter_rows(path):
        reading.add(row)
    if reading.field_names and not set(CAPTION_FIELDS) & set(reading.field_names):
        names = ", ".join(map(printable, reading.field_names))
        raise ValueError(f"{path} has no field of captions; its fields are {names}. Rename one of them to caption.")
    folder = scan_dataset_folder(config)
    entries = reading.make_entries()
    for name in folder.images:
        entries.setdefault(name, Entry(name, name, None))
    problems = [make_invalid_entry(name, text) for name, text in folder.problems.items() if name not in entries]
    unknown = describe_unknown(reading.field_names)
    notes = [f"{path.name}: {unknown}"] if unknown else []
    return Annotations(
        [*entries.values(), *reading.invalid, *problems], (*notes, *folder.describe_left_out(config.images))
    )


def _iter_rows(path: Path) -> Iterator[_Row]:
    """Yield the rows of a captions file."""
    suffix = path.suffix.lower()
    if suffix not in CAPTIONS_SUFFIXES:
        hint = ' Set `format = "karpathy"` to read a Karpathy JSON file.' if suffix == ".json" else ""
        raise ValueError(
            f"{path} is not a captions file. Set `annotations` to a file that ends in .jsonl or .csv.{hint}"
        )
    encoding = detect_encoding(path)
    try:
        with open(path, encoding=encoding, newline="") as file:
            yield from (_iter_table(path, file) if suffix in TABLE_SUFFIXES else _iter_json(path, file))
    except UnicodeError as error:
        line = find_invalid_line(path, encoding) if encoding == "utf-8" else 0
        location = f" in line {line}" if line else ""
        raise ValueError(f"{path} cannot be read: {error}{location}. Save it as UTF-8 text.") from error


def _iter_table(path: Path, file: TextIO) -> Iterator[_Row]:
    try:
        for row in iter_table_rows(file):
            if problem := find_unread_split(row.values):
                raise ValueError(f"line {row.line}: {problem}")
            values = {
                name: InvalidText("the caption is a list; write one row for each caption")
                if name == "captions" and value.startswith("[") and value.endswith("]")
                else value
                for name, value in row.values.items()
            }
            yield _Row(f"line {row.line} of {path.name}", values, row.problem)
    except UnicodeError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error


def _iter_json(path: Path, file: TextIO) -> Iterator[_Row]:
    for number, line in enumerate(iter_lines(file), 1):
        location = f"line {number} of {path.name}"
        if line is None:
            yield _Row(location, {}, "the line is too long")
        elif text := line.strip("\ufeff \t\r\n"):
            try:
                yield _make_json_row(location, parse_json(text))
            except ValueError as error:
                yield _Row(location, {}, f"the line is not a JSON object: {error}")


def _make_json_row(location: str, row: Any) -> _Row:
    if not isinstance(row, dict):
        return _Row(location, {})
    names = [normalize_name(name) for name in row]
    values = dict(zip(names, row.values(), strict=True))
    problem = find_name_problem(names) or find_unread_split(values)
    return _Row(location, values, problem, is_split_lost=bool(problem))
