"""Rows of a captions file or a table of metadata: .csv, .tsv, .parquet, or one JSON object per line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from data.datasets.entry import InvalidText
from data.datasets.fields import (
    CAPTION_FIELDS,
    FIELDS,
    find_name_problem,
    find_unread_split,
    normalize_name,
    rename_metadata_fields,
)
from data.datasets.table_file import iter_table_rows
from data.io.json_text import parse_json
from data.text import detect_encoding, find_invalid_line, iter_lines

TABLE_SUFFIXES, JSON_SUFFIXES, PARQUET_SUFFIX = (".csv", ".tsv"), (".jsonl", ".ndjson"), ".parquet"
CAPTIONS_SUFFIXES = (*TABLE_SUFFIXES, *JSON_SUFFIXES, PARQUET_SUFFIX)


@dataclass(frozen=True)
class CaptionRow:
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

    @property
    def metadata_captions(self) -> list[Any]:
        """Captions of a row of metadata, which need not have any."""
        has_captions = any(self.values.get(name) not in (None, "") for name in CAPTION_FIELDS)
        return [text for text in self.captions if text not in (None, "")] if has_captions else []

    @property
    def columns(self) -> dict[str, Any]:
        """The other fields."""
        return {name: value for name, value in self.values.items() if name and name not in FIELDS}


def iter_rows(path: Path, is_metadata: bool = False) -> Iterator[CaptionRow]:
    """Yield the rows of a captions file.

    Args:
        path: Path of the file.
        is_metadata: Whether it is a table of metadata in the convention of Hugging Face: `file_name` names the image,
            and the captions, in `caption`, `captions` or `text`, may be missing.

    Raises:
        ValueError: The file is not text in one of the formats, or a row would lose what its author means.
    """
    suffix = path.suffix.lower()
    if suffix not in CAPTIONS_SUFFIXES:
        hint = ' Set `format = "karpathy"` to read a Karpathy JSON file.' if suffix == ".json" else ""
        raise ValueError(
            f"{path} is not a captions file. Set `annotations` to a file that ends in .jsonl, .csv or .parquet.{hint}"
        )
    if suffix == PARQUET_SUFFIX:
        yield from _iter_parquet(path, is_metadata)
        return
    encoding = detect_encoding(path)
    read = _iter_table if suffix in TABLE_SUFFIXES else _iter_json
    try:
        with open(path, encoding=encoding, newline="") as file:
            yield from read(path, file, is_metadata)
    except UnicodeError as error:
        line = find_invalid_line(path, encoding) if encoding == "utf-8" else 0
        location = f" in line {line}" if line else ""
        raise ValueError(f"{path} cannot be read: {error}{location}. Save it as UTF-8 text.") from error


def _iter_table(path: Path, file: TextIO, is_metadata: bool) -> Iterator[CaptionRow]:
    try:
        for row in iter_table_rows(file, is_metadata):
            if problem := find_unread_split(row.values):
                raise ValueError(f"line {row.line}: {problem}")
            values = {
                name: InvalidText("the caption is a list; write one row for each caption")
                if name == "captions" and value.startswith("[") and value.endswith("]")
                else value
                for name, value in row.values.items()
            }
            yield CaptionRow(f"line {row.line} of {path.name}", values, row.problem)
    except UnicodeError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error


def _iter_parquet(path: Path, is_metadata: bool) -> Iterator[CaptionRow]:
    from data.datasets.parquet_rows import iter_parquet_rows  # lazy: most datasets need no pyarrow

    for number, content in enumerate(iter_parquet_rows(path)):
        yield make_row(f"row {number} of {path.name}", content, is_metadata)


def _iter_json(path: Path, file: TextIO, is_metadata: bool) -> Iterator[CaptionRow]:
    for number, line in enumerate(iter_lines(file), 1):
        location = f"line {number} of {path.name}"
        if line is None:
            yield CaptionRow(location, {}, "the line is too long")
        elif text := line.strip("\ufeff \t\r\n"):
            try:
                content = parse_json(text)
            except ValueError as error:
                yield CaptionRow(location, {}, f"the line is not a JSON object: {error}")
            else:
                yield make_row(location, content, is_metadata)


def make_row(location: str, content: Any, is_metadata: bool, has_many_fields: bool = False) -> CaptionRow:
    """Make a row of a JSON object or of a row of another table; anything else is a row without values.

    Args:
        location: Place of the object, for messages.
        content: The object.
        is_metadata: As in `iter_rows`.
        has_many_fields: Whether a program wrote the object with all it knows, so that a value `test` is no lost split.
    """
    if not isinstance(content, Mapping):
        return CaptionRow(location, {})
    names = [normalize_name(name) for name in content]
    names = rename_metadata_fields(names) if is_metadata else names
    values = dict(zip(names, content.values(), strict=True))
    problem = find_name_problem(names) or ("" if has_many_fields else find_unread_split(values))
    return CaptionRow(location, values, problem, is_split_lost=bool(problem))
