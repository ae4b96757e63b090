"""Names for versions: a tagged version is never collected, and can be asked for by its tag.

root/tags/prod.json      {"version": 3, "manifest_sha256": "..."}, as CURRENT
"""

import re
from pathlib import Path

from data.io import read_json, sha256_file, write_json
from index.versions.events import record_event
from index.versions.folder import index_write_lock, manifest_path, read_version_manifest

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")  # not a number, and no path
NUMBER = re.compile(r"v?\d+")  # `find` reads it as a version


def list_tags(root: Path) -> dict[str, int]:
    """{tag: version}, by name. Raises ValueError naming a file that cannot be read."""
    found = {}
    for path in sorted(Path(root).glob("tags/*.json")):
        if not NAME.fullmatch(path.stem):
            continue  # half of one, of a process that was killed
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("version"), int):
            raise ValueError(f"{path} does not name a version: remove it, and tag again.")
        found[path.stem] = content["version"]
    return found


def add_tag(root: Path, name: str, version: int, move: bool = False) -> None:
    """Give a version a name. A tag that names another version is moved only if `move` says so.

    Raises ValueError for a name that is no tag's, or is taken, FileNotFoundError if there is no such version.
    """
    path = _path(root, name)
    if NUMBER.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a tag: it would be read as the number of a version; take another name.")
    with index_write_lock(root):
        read_version_manifest(root, version)
        before = list_tags(root).get(name, version)
        if before != version and not move:
            raise ValueError(f"tag {name!r} names version {before}: move it (--move), or take another name.")
        write_json(path, {"version": version, "manifest_sha256": sha256_file(manifest_path(root, version))})
        record_event(root, "tagged", version, tag=name)


def remove_tag(root: Path, name: str) -> None:
    """Take a name away; the version stays until it is collected. Raises ValueError if there is no such tag."""
    path = _path(root, name)
    with index_write_lock(root):
        if not path.is_file():
            raise ValueError(f"there is no tag {name!r} in {root}; there are {', '.join(list_tags(root)) or 'none'}.")
        version = list_tags(root)[name]
        path.unlink()
        record_event(root, "untagged", version, tag=name)


def resolve_version(root: Path, name: str) -> int:
    """The version that a tag or a number says. Raises ValueError if it is neither."""
    if re.fullmatch(r"v?\d{1,18}", name):
        if (number := int(name.removeprefix("v"))) < 1:
            raise ValueError(f"{name!r} is no version in {root}: they are counted from 1.")
        return number
    found = list_tags(root)
    if name not in found:
        raise ValueError(f"{name!r} is no version and no tag in {root}; tags are {', '.join(found) or 'none'}.")
    return found[name]


def _path(root: Path, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a tag: a letter, then at most 63 letters, digits, dots, dashes, lines.")
    return Path(root) / "tags" / f"{name}.json"
