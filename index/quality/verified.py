"""Stamps of the objects that a gate has read, so that the gate of an update need not read them again.

root/verified.json    {sha256: [bytes, inode, ctime in ns]} of the objects of the last version that passed its gate

Damage that changes no stamp (see `data.io.stamps`) is found by `verify_version` and by the gate of a build.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from data.io import Stamp, is_settled, read_json, read_stamp, write_json
from index.versions.objects import ManifestModel, ObjectRef, iter_refs, object_path

FILE = "verified.json"
log = logging.getLogger(__name__)
P = TypeVar("P", bound=ManifestModel)
Stamps = dict[str, Stamp]


def read_stamps(root: Path, part: Any) -> Stamps:
    """Return the stamps of all objects in a part of a manifest that are settled."""
    stamps = {ref.sha256: _read_stamp(root, ref) for ref in iter_refs(part)}
    return {name: stamp for name, stamp in stamps.items() if stamp and is_settled(stamp)}


def find_unmodified(root: Path, parts: Iterable[P]) -> list[P]:
    """Return the parts of a manifest whose objects all have the stamps of the last gate."""
    try:
        saved = read_json(Path(root) / FILE)
    except (ValueError, OSError):
        return []
    stamps: dict[str, Any] = saved if isinstance(saved, dict) else {}
    return [part for part in parts if all(_read_stamp(root, ref) == stamps.get(ref.sha256) for ref in iter_refs(part))]


def save_stamps(root: Path, stamps: Stamps) -> None:
    """Save stamps that were read before their objects.

    A write error is only logged: the next gate reads more.
    """
    try:
        write_json(Path(root) / FILE, stamps)
    except OSError as error:
        log.warning("The stamps of verified objects cannot be written in %s; they will be read again: %s", root, error)


def _read_stamp(root: Path, ref: ObjectRef) -> Stamp:
    """Return the stamp of an object; empty if it is missing, which the audit reports."""
    try:
        return read_stamp(object_path(root, ref))
    except OSError:
        return []
