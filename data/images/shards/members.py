"""`ShardList`: what a tar or Parquet shard holds, without the bytes of its images."""

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field

from data.images.folder import MAX_IGNORED_NAMES, READABLE_SUFFIXES, UNREADABLE_SUFFIXES
from data.text import escape_invalid_text, find_id_problem

MAX_MEMBERS = 2_000_000  # of a shard


@dataclass
class ShardList:
    """Members of a shard. A name is a path inside the shard, which is never joined with one of the file system."""

    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name of each image; of a tar shard its offset and size in bytes, of a Parquet file its row and 0."""
    texts: list[tuple[str, str]] = field(default_factory=list)
    """Name and content of each `.txt` and `.json` file; the fields of a Parquet row are JSON."""
    links: list[tuple[str, str]] = field(default_factory=list)
    """Path of an image that a Parquet row names instead of holding it, and the fields of the row as JSON."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Name of a member, or a place in the shard, and why it cannot be used."""
    num_ignored: int = 0
    """Number of other members."""
    first_ignored: list[str] = field(default_factory=list)
    column: str = ""
    """Column of a Parquet file that holds the images."""

    def ignore(self, name: str) -> None:
        """Count a member that is not part of the dataset."""
        self.num_ignored += 1
        if self.num_ignored <= MAX_IGNORED_NAMES:
            self.first_ignored.append(escape_invalid_text(name))

    def add_problem(self, name: str, reason: str) -> None:
        """Add a member that cannot be used."""
        self.problems.append((escape_invalid_text(name), reason))


def split_member_name(name: str) -> tuple[str, str]:
    """Split the name of a member at the first dot of its last part, as WebDataset does: the key, and the rest."""
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem), extension


def find_member_problem(name: str) -> str:
    """Find why the name of a member cannot be used; an empty text if it can."""
    if name.startswith("/") or ".." in name.split("/"):
        return "its path leaves the shard"
    return f"its name is not valid: {problem}" if (problem := find_id_problem(name)) else ""


def choose_images(names: Iterable[str]) -> dict[str, str]:
    """Choose the images among members: names by key. Of `a.jpg` and `a.seg.png`, the second one is another field."""
    keys: dict[str, str] = {}
    others = []
    for name in names:
        key, extension = split_member_name(name)
        if "." in extension:
            others.append((key, name))
        else:
            keys.setdefault(key, name)
    for key, name in others:
        if key not in keys:
            keys.setdefault(posixpath.splitext(name)[0], name)
    return keys


def get_image_problem(name: str) -> str | None:
    """Return None for the name of another file, an empty text for that of an image, or why it cannot be read."""
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in READABLE_SUFFIXES:
        return ""
    is_image = suffix in UNREADABLE_SUFFIXES
    return f"files of the format {suffix} cannot be read; convert it to JPEG, PNG or TIFF" if is_image else None
