"""Read a table of text with a header line (.csv, .tsv) as rows by column name. Used for captions files.

Quotation marks follow RFC 4180 strictly: a lenient parser reads all rows up to the next mark as one caption.
"""

import csv
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TextIO

from data.datasets.fields import CAPTION_FIELDS, FIELDS, find_name_problem, normalize_name, rename_metadata_fields
from data.images.folder import IMAGE_SUFFIXES
from data.text import MAX_LINE_CHARACTERS, iter_lines

DELIMITERS = (",", "\t", ";", "|")
QUOTE = '"'


@dataclass(frozen=True)
class TableRow:
    """One row of a table."""

    line: int
    """Number of its first line in the file, from 1."""
    values: dict[str, str]
    """Values by normalized column name."""
    problem: str = ""
    """Why the row cannot be read; empty if it can."""


@dataclass
class _Lines:
    """Lines of a file, with those of the current record."""

    file: TextIO
    number: int = 0
    """Number of the last line that was read."""
    record: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        for line in iter_lines(self.file):
            self.number += 1
            if line is None:
                raise ValueError(f"line {self.number} has more than {MAX_LINE_CHARACTERS:,} characters. Remove it")
            self.record.append(line)
            yield line


@dataclass(frozen=True)
class _Header:
    names: list[str]
    """Normalized column names."""
    delimiter: str
    has_spaces: bool
    """Whether names have spaces around them; then those around values are not part of the values either."""


def iter_table_rows(file: TextIO, is_metadata: bool = False) -> Iterator[TableRow]:
    """Yield the rows of a table. The delimiter is the one with which the header line has the most known columns.

    Args:
        file: Text file, opened with `newline=""`.
        is_metadata: Whether the image is named `file_name`, and captions may be missing.

    Raises:
        ValueError: A column is missing, misspelled or occurs twice, or a quotation mark is not closed.
    """
    lines = _Lines(file)
    header = _read_header(lines, is_metadata)
    reader = csv.reader(lines, delimiter=header.delimiter, strict=True, skipinitialspace=header.has_spaces)
    while True:
        lines.record.clear()
        first = lines.number + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if opened := _find_open_quote(lines.record, header):
                raise ValueError(_describe_open_quote(first + opened - 1, header.delimiter)) from error
            yield TableRow(first, {}, f"the row cannot be read: {error}")
            continue
        if swallowed := _find_swallowed_row(lines.record, header):
            raise ValueError(_describe_open_quote(first + swallowed - 1, header.delimiter))
        if any(value.strip() for value in values):
            yield _make_row(first, values, header)


def _make_row(line: int, values: list[str], header: _Header) -> TableRow:
    names, problem = header.names, ""
    if len(values) > len(names):
        problem = "the row has more fields than the first line has columns; put captions with commas into quotes"
    if len(values) < len(names):
        problem = "the row has fewer fields than the first line has columns; complete it"
    if header.has_spaces:
        values = [value.strip() for value in values]
    return TableRow(line, dict(zip(names, values, strict=False)), problem)


def _read_header(lines: _Lines, is_metadata: bool) -> _Header:
    delimiters: tuple[str, ...] = DELIMITERS
    for line in lines:
        line = line.strip("\ufeff\r\n")
        if line.casefold().startswith("sep=") and len(line.rstrip()) <= len("sep=,"):  # a setting of Excel
            delimiters = (line[4:5] or "\t",)
        elif line.strip("".join(delimiters) + " "):
            break
    else:
        raise ValueError("it has no line with the names of the columns; write image,caption,split in the first line")
    headers = [_parse_header(line, delimiter, is_metadata) for delimiter in delimiters]
    header = max(headers, key=lambda header: len(set(header.names) & set(FIELDS)))
    names = header.names
    missing = [] if "image" in names else ["file_name" if is_metadata else "image"]
    missing += [] if is_metadata or set(CAPTION_FIELDS) & set(names) else ["caption"]
    if missing:
        raise ValueError(
            f"line {lines.number} must name the columns {'file_name' if is_metadata else 'image, caption'} and, "
            "optionally, split. It does not name "
            f"{' and '.join(missing)}; its columns are {', '.join(map(repr, names))[:200]}"
        )
    if problem := find_name_problem(names):
        raise ValueError(f"line {lines.number}: {problem}")
    return header


def _parse_header(line: str, delimiter: str, is_metadata: bool) -> _Header:
    parts = line.split(delimiter)
    has_spaces = any(part != part.strip() for part in parts)
    names = [normalize_name(part.strip().strip(QUOTE)) for part in parts]
    return _Header(rename_metadata_fields(names) if is_metadata else names, delimiter, has_spaces)


def _find_open_quote(record: list[str], header: _Header) -> int:
    """Find the line, from 1, in which a quotation mark opens that is not closed before a delimiter or a line end.

    Returns 0 if there is none.
    """
    text, position = "".join(record), 0
    end_of_field, start_of_field = re.compile(f"[{re.escape(header.delimiter)}\r\n]"), re.compile(" *")
    while position < len(text):
        if header.has_spaces and (spaces := start_of_field.match(text, position)):
            position = spaces.end()
        if text[position : position + 1] != QUOTE:
            end = end_of_field.search(text, position)
            position = end.end() if end else len(text)
            continue
        opened, position = position, position + 1
        while (position := text.find(QUOTE, position)) >= 0 and text[position + 1 : position + 2] == QUOTE:
            position += 2
        if position < 0 or text[position + 1 : position + 2] not in (header.delimiter, "\r", "\n", ""):
            ends = itertools.accumulate(map(len, record))
            return next(number for number, end in enumerate(ends, 1) if opened < end)
        position += 2
    return 0


def _find_swallowed_row(record: list[str], header: _Header) -> int:
    """Find the line, from 1, of a quotation mark that encloses a whole row: an image name and as many fields."""
    for number, line in enumerate(record[1:], 1):
        start = line.split(header.delimiter)[0].strip()
        is_row = line.count(header.delimiter) >= max(1, len(header.names) - 1) and QUOTE not in start
        if is_row and PurePosixPath(start).suffix.lower() in IMAGE_SUFFIXES:
            return _find_open_quote(record[:number], header)
    return 0


def _describe_open_quote(line: int, delimiter: str) -> str:
    end = "a tab" if delimiter == "\t" else repr(delimiter)
    return (
        f"line {line}: the quotation mark that opens a field there is not closed before {end} or the end of the line. "
        'Close it, or write "" for a mark that is part of a quoted text'
    )
