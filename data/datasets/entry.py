"""Unchecked record of an annotation file: one image with its captions, as the readers of all formats yield it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Entry:
    """One image of an annotation file; the values have any type until `load_dataset` has checked them."""

    id: Any
    """File name, or the location of a record that cannot be read."""
    relative: Any
    """Path below the folder of images."""
    split: Any
    """Split, as written in the file."""
    texts: list[Any] = field(default_factory=list)
    """Captions, in the order of the file."""
    problem: str = ""
    """Why the record itself cannot be read; empty if it can."""


def make_invalid_entry(location: str, problem: str) -> Entry:
    """Make the entry of a record that cannot be read."""
    return Entry(location, "", "train", problem=problem)
