"""What a gate has read whole, by what the file system says of it: an update need not read it again.

root/verified.json    {sha256: [bytes, inode, ctime in ns]}, of the objects of the last version that passed its gate

A file that is written to, cut, touched, replaced or restored has another ctime or inode, and no call sets a ctime. What
changes behind the file system's back (a failing disk) is seen by `verify`, and by the gate of a build.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from data.io import read_json, write_json
from index.versions.objects import ManifestModel, ObjectRef, iter_refs, object_path

FILE = "verified.json"
MIN_AGE_SECONDS = 2.0  # seconds; what changed since might change again within one tick of a coarse clock
log = logging.getLogger(__name__)
P = TypeVar("P", bound=ManifestModel)
Stamps = dict[str, list[int]]


def read_stamps(root: Path, part: Any) -> Stamps:
    """Those of all objects that a part of a manifest names and that have been left alone for `SETTLED`."""
    found = {ref.sha256: _stamp(root, ref) for ref in iter_refs(part)}
    settled = time.time_ns() - int(MIN_AGE_SECONDS * 1e9)
    return {name: stamp for name, stamp in found.items() if stamp and stamp[-1] < settled}


def find_unmodified(root: Path, parts: Iterable[P]) -> list[P]:
    """The parts of a manifest whose every object is as it was when it was last read whole."""
    try:
        noted = read_json(Path(root) / FILE)
    except (ValueError, OSError):
        return []
    known = noted.get if isinstance(noted, dict) else {}.get
    return [part for part in parts if all(_stamp(root, ref) == known(ref.sha256, ()) for ref in iter_refs(part))]


def save_stamps(root: Path, seen: Stamps) -> None:
    """Keep stamps that were taken before their objects were read. Without them more is read: to fail is no error."""
    try:
        write_json(Path(root) / FILE, seen)
    except OSError as error:
        log.warning("what was verified is not noted in %s, and will be read again: %s", root, error)


def _stamp(root: Path, ref: ObjectRef) -> list[int]:
    """Nothing for an object that is not there: the audit names it."""
    try:
        stat = object_path(root, ref).stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_ino, stat.st_ctime_ns]
