"""Captions and columns of an image from the text and JSON files beside it: `a.txt` and `a.json` of `a.jpg`.

This is how img2dataset and trainers of diffusion models write captions; a member of a tar shard has them too.
"""

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.datasets.entry import Entry, make_invalid_entry
from data.datasets.rows import make_row
from data.io.files import TRANSIENT_ERRNOS
from data.io.json_text import parse_json

MAX_COMPANION_BYTES = 1 << 20  # of a text or JSON file; a longer one is not about one image


def find_companions(names: Iterable[str]) -> dict[str, list[str]]:
    """Map paths without suffix to the text and JSON files of this path, text files first."""
    names_by_stem: dict[str, list[str]] = {}
    for name in sorted(names, reverse=True):
        names_by_stem.setdefault(posixpath.splitext(name)[0], []).append(name)
    return names_by_stem


def list_companions(image: str, names_by_stem: Mapping[str, list[str]]) -> list[str]:
    """List the files of an image: `a.txt` and `a.json` of `a.jpg`, and `a.jpg.json`."""
    return [*names_by_stem.get(posixpath.splitext(image)[0], ()), *names_by_stem.get(image, ())]


def read_companions(root: Path, entry: Entry, names: Iterable[str]) -> list[Entry]:
    """Add captions and columns of files to the entry of their image.

    Returns:
        One invalid entry per file that cannot be read.
    """
    invalid = []
    for name in names:
        try:
            content = _read_file(root / name)
            if problem := add_companion(entry, name, content):
                invalid.append(make_invalid_entry(name, problem))
        except OSError as error:
            if error.errno in TRANSIENT_ERRNOS:
                raise
            invalid.append(make_invalid_entry(name, f"the file cannot be read: {error.strerror}"))
    return invalid


def _read_file(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_COMPANION_BYTES + 1)


def add_companion(entry: Entry, name: str, content: bytes) -> str:
    """Add the captions and columns of one text or JSON file to the entry of its image.

    Args:
        entry: Entry of the image; changed in place.
        name: Name of the file; its suffix is the format.
        content: Its bytes.

    Returns:
        Why the file cannot be read, or an empty text.
    """
    if len(content) > MAX_COMPANION_BYTES:
        return f"the file has more than {MAX_COMPANION_BYTES:,} bytes, too many for the captions of one image"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"the file is not UTF-8 text: {error.reason} at byte {error.start:,}. Save it as UTF-8"
    if not name.lower().endswith(".json"):
        entry.add_texts([text] if text.strip() else [])
        return ""
    try:
        return _add_object(entry, name, parse_json(text))
    except ValueError as error:
        return f"the file is not JSON: {error}"


def _add_object(entry: Entry, name: str, content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"the file is not a JSON object but {type(content).__name__}"
    row = make_row(name, content, is_metadata=True, has_many_fields=True)
    if row.problem:
        entry.problem = entry.problem or f"{name}: {row.problem}"  # a split that is lost must not be drawn
        return ""
    if row.split is not None and entry.split is not None and row.split != entry.split:
        entry.problem = f"{name}: split {row.split!r} contradicts {entry.split!r}; write one into both"
    entry.split = row.split if entry.split is None else entry.split
    entry.add_texts(row.metadata_captions)
    entry.add_values(row.columns)
    return ""
