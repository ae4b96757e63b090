"""Reader of a folder of images with a captions file: .csv, .tsv or .jsonl with image, caption(s) and split."""

import os
import posixpath
from dataclasses import dataclass, field
from pathlib import Path

from data.config import DatasetConfig
from data.datasets.entry import Annotations, Entry, make_invalid_entry
from data.datasets.fields import CAPTION_FIELDS
from data.datasets.folder_scan import scan_dataset_folder
from data.datasets.rows import CaptionRow, iter_rows
from data.text import printable


@dataclass
class RowsByImage:
    """Rows of one table, by the image that they name."""

    root: Path
    """Folder of the images."""
    base: str = ""
    """Folder of the table below it, which its rows cannot leave; empty: `root` itself."""
    is_metadata: bool = False
    """Whether rows need no captions."""
    rows: dict[str, list[CaptionRow]] = field(default_factory=dict)
    """Rows by image."""
    invalid: list[Entry] = field(default_factory=list)
    field_names: dict[str, None] = field(default_factory=dict)
    """All field names, in the order of the file."""

    def add(self, row: CaptionRow) -> None:
        """Add a row to those of its image, or to the invalid entries."""
        self.field_names |= dict.fromkeys(row.values)
        image, named = row.values.get("image"), "file_name" if self.is_metadata else "image"
        if not isinstance(image, str) or not image.strip():
            reason = row.problem or f"the row has no text field `{named}`"
            self.invalid.append(make_invalid_entry(row.location, reason))
            return
        name = self._make_id(image)
        if self.base and not name.startswith(f"{self.base}/"):
            self.invalid.append(
                make_invalid_entry(f"{image} at {row.location}", "its path leaves the folder of the table")
            )
        elif row.problem and not row.is_split_lost:
            self.invalid.append(make_invalid_entry(f"{name} at {row.location}", row.problem))
        else:
            self.rows.setdefault(name, []).append(row)

    def _make_id(self, image: str) -> str:
        """Return the path below the folder of images: ./a.jpg is a.jpg, and so is the absolute path of a.jpg."""
        name = posixpath.normpath(posixpath.join(self.base, image))
        if os.path.isabs(name) and "\0" not in name and Path(name).is_relative_to(self.root):
            return Path(name).relative_to(self.root).as_posix()
        return name

    def make_entries(self) -> dict[str, Entry]:
        """Make one entry per image. Rows that contradict its split become invalid entries."""
        return {name: self._make_entry(name, rows) for name, rows in self.rows.items()}

    def _make_entry(self, name: str, rows: list[CaptionRow]) -> Entry:
        if lost := next((row for row in rows if row.is_split_lost), None):
            return Entry(f"{name} at {lost.location}", name, None, problem=lost.problem)
        decisive = max(rows, key=_rank_split)  # independent of the order of the rows
        entry = Entry(name, name, decisive.split)
        for row in rows:
            if row.split is None or row.split == entry.split:
                entry.texts.extend(row.metadata_captions if self.is_metadata else row.captions)
                entry.add_values(row.columns)
            else:
                problem = f"split {row.split!r} contradicts {entry.split!r} at {decisive.location}; write one into both"
                self.invalid.append(make_invalid_entry(f"{name} at {row.location}", problem))
        return entry


def _rank_split(row: CaptionRow) -> int:
    """Rank the split of a row: an unknown one first, then test, val and train; an image of test is never trained on."""
    known = (None, "train", "restval", "val", "test")
    return known.index(row.split) if row.split in known else len(known)


def read_captions_file(config: DatasetConfig) -> Annotations:
    """Read the rows of a captions file, grouped by image; images without a row follow, without captions.

    Raises:
        ValueError: The captions file is not text in one of the formats, or it would lose what its author means: a
            column is missing, misspelled or occurs twice, or a quotation mark is not closed.
    """
    path, reading = config.annotations, RowsByImage(config.images.absolute())
    assert path is not None, "a dataset without annotations is read by `read_folder_tree`"
    for row in iter_rows(path):
        reading.add(row)
    if reading.field_names and not set(CAPTION_FIELDS) & set(reading.field_names):
        names = ", ".join(map(printable, reading.field_names))
        raise ValueError(f"{path} has no field of captions; its fields are {names}. Rename one of them to caption.")
    folder = scan_dataset_folder(config)
    folder.ignore_others()
    entries = reading.make_entries()
    for name in folder.images:
        entries.setdefault(name, Entry(name, name, None))
    problems = [make_invalid_entry(name, text) for name, text in folder.problems.items() if name not in entries]
    return Annotations([*entries.values(), *reading.invalid, *problems], folder.describe_left_out(config.images))
