"""Names for versions. A tagged version is never garbage collected and can be opened by its tag.

root/tags/prod.json      {"version": 3, "manifest_sha256": "..."}, as in CURRENT
"""

import re
from pathlib import Path

from data.io import write_json
from index.versions.events import record_event
from index.versions.folder import make_pointer, read_pointer, read_version_manifest
from index.versions.index_folder import index_write_lock

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")  # neither a number nor a path
NUMBER = re.compile(r"v?\d+")  # `resolve_version` reads it as a version


def list_tags(root: Path) -> dict[str, int]:
    """Return the version of each tag, sorted by tag.

    Raises:
        ValueError: A tag file cannot be read; the message names it.
    """
    version_by_tag = {}
    for path in sorted(Path(root).glob("tags/*.json")):
        if not NAME.fullmatch(path.stem):
            continue  # a temporary file of a process that was killed
        try:
            version_by_tag[path.stem] = read_pointer(path).version
        except ValueError as error:
            raise ValueError(f"{error} Delete the file and add the tag again.") from error
    return version_by_tag


def add_tag(root: Path, name: str, version: int, move: bool = False) -> None:
    """Tag a version.

    Args:
        move: Move the tag if it names another version.

    Raises:
        ValueError: The name is not valid, or it names another version and `move` is false.
        FileNotFoundError: The version does not exist.
    """
    path = _tag_path(root, name)
    if NUMBER.fullmatch(name):
        raise ValueError(f"{name!r} is not a valid tag: it would be read as a version number. Choose another name.")
    with index_write_lock(root):
        read_version_manifest(root, version)
        previous = list_tags(root).get(name, version)
        if previous != version and not move:
            raise ValueError(f"Tag {name!r} names version {previous}. Pass --move to move it, or choose another name.")
        write_json(path, make_pointer(root, version).model_dump())
        record_event(root, "tagged", version, tag=name)


def remove_tag(root: Path, name: str) -> None:
    """Remove a tag; its version stays until garbage collection deletes it.

    Raises:
        ValueError: The tag does not exist.
    """
    path = _tag_path(root, name)
    with index_write_lock(root):
        if not path.is_file():
            raise ValueError(f"{root} has no tag {name!r}; its tags are: {', '.join(list_tags(root)) or 'none'}.")
        version = list_tags(root)[name]
        path.unlink()
        record_event(root, "untagged", version, tag=name)


def resolve_version(root: Path, name: str) -> int:
    """Return the version number that a tag or a number names.

    Raises:
        ValueError: The name is neither a number from 1 nor a tag.
    """
    if re.fullmatch(r"v?[0-9]{1,18}", name):
        if (number := int(name.removeprefix("v"))) < 1:
            raise ValueError(f"{name!r} is not a version of {root}: versions are counted from 1.")
        return number
    version_by_tag = list_tags(root)
    if name not in version_by_tag:
        tags = ", ".join(version_by_tag) or "none"
        raise ValueError(f"{name!r} is not a version and not a tag of {root}; its tags are: {tags}.")
    return version_by_tag[name]


def _tag_path(root: Path, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a valid tag. Use a letter, then at most 63 letters, digits, dots, hyphens or underscores."
        )
    return Path(root) / "tags" / f"{name}.json"
