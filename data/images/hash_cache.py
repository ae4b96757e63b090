"""Hashes of photographs, remembered: a file that has not been touched since it was hashed is not read again."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data.io.digests import sha256_file
from data.io.files import read_json, write_json

VERSION = 1
FILE = "hashes.json"
MIN_AGE_NS = 2 * 10**9  # nanoseconds: twice the coarsest clock of a file system (FAT's even seconds)


class FileHashCache:
    """SHA-256 of files by path, kept in `workspace/hashes.json` with what the system says of each file.

    An entry counts while size, times and inode are the same. As in git's index, a file that was touched shortly before
    it was hashed is not remembered: a change within the same tick of the clock would leave no trace.
    """

    def __init__(self, workspace: Path, clock: Callable[[], int] = time.time_ns):
        self.path, self._clock = Path(workspace) / FILE, clock
        self._known = _read(self.path)

    def get_hashes(self, paths: Iterable[Path]) -> list[str]:
        """The hash of each file, or, for one that cannot be read, why; what was learned is kept for the next run."""
        kept: dict[str, list[Any]] = {}
        found = [self._hash(os.path.abspath(path), kept) for path in paths]
        if kept != self._known:
            write_json(self.path, {"version": VERSION, "files": kept})
            self._known = kept
        return found

    def _hash(self, path: str, kept: dict[str, list[Any]]) -> str:
        try:
            facts = _facts(path)
            entry = self._known.get(path)
            if entry is not None and entry[:-1] == facts:
                kept[path] = entry
                return entry[-1]
            began = self._clock()
            value = sha256_file(Path(path))
            if facts == _facts(path) and max(facts[1:3]) + MIN_AGE_NS < began:
                kept[path] = [*facts, value]
            return value
        except OSError as error:  # it is set aside, with this reason, when its shard is made
            return f"unreadable: {error.strerror}"


def _facts(path: str) -> list[int]:
    """Size, times of the last change of content and of anything, inode: ctime shows what a restored mtime hides."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read(path: Path) -> dict[str, list[Any]]:
    """The entries of a cache; none if there is no file or not a good one: it is only a memory, and is made again."""
    try:
        content = read_json(path)
        entries = content["files"] if content["version"] == VERSION else {}
        return {name: entry for name, entry in entries.items() if _is_entry(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_entry(entry: Any) -> bool:
    shape = isinstance(entry, list) and len(entry) == 5 and all(isinstance(part, int) for part in entry[:4])
    return shape and isinstance(entry[4], str) and len(entry[4]) == 64
