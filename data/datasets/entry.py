"""Unchecked content of an annotation file, as the readers of all formats return it to `load_dataset`."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class InvalidText:
    """A caption that the reader itself cannot read."""

    reason: str


@dataclass(slots=True)  # an annotation file may have millions of them
class Entry:
    """One image of an annotation file; the values have any type until `load_dataset` has checked them."""

    id: Any
    """File name, or the location of a record that cannot be read."""
    relative: Any
    """Path below the folder of images."""
    split: Any
    """Split, as written in the file; None: not written, so that `load_dataset` draws it."""
    texts: list[Any] = field(default_factory=list)
    """Captions, in the order of the file."""
    problem: str = ""
    """Why the record itself cannot be read; empty if it can."""


@dataclass(frozen=True)
class Annotations:
    """Content of an annotation file."""

    entries: list[Entry]
    notes: tuple[str, ...] = ()
    """What the reader ignored, one sentence each."""


def make_invalid_entry(location: str, problem: str) -> Entry:
    """Make the entry of a record that cannot be read."""
    return Entry(location, "", "train", problem=problem)
