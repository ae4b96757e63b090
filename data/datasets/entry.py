"""Unchecked content of an annotation file, as the readers of all formats return it to `load_dataset`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class InvalidText:
    """A caption that the reader itself cannot read."""

    reason: str


def _normalize(text: Any) -> str:
    return " ".join(text.split()) if isinstance(text, str) else repr(text)


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
    values: dict[str, Any] = field(default_factory=dict)
    """Other fields of the file by name, of which `convert_columns` makes columns."""

    def add_texts(self, texts: Iterable[Any]) -> None:
        """Add captions from another file, without those that the entry has; spaces and line breaks do not matter."""
        known = {_normalize(text) for text in self.texts}
        self.texts.extend(text for text in texts if _normalize(text) not in known)

    def add_values(self, values: Mapping[str, Any]) -> None:
        """Add fields from another file or row; those that the entry has stay as they are."""
        for name, value in values.items():
            if self.values.get(name) in (None, ""):
                self.values[name] = value


@dataclass(frozen=True)
class Annotations:
    """Content of an annotation file."""

    entries: list[Entry]
    notes: tuple[str, ...] = ()
    """What the reader ignored, one sentence each."""


def make_invalid_entry(location: str, problem: str) -> Entry:
    """Make the entry of a record that cannot be read."""
    return Entry(location, "", "train", problem=problem)
