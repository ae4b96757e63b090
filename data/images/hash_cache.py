"""Cache of file hashes: a file that has not changed since it was hashed is not read again."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data.io.digests import sha256_file
from data.io.files import read_json, write_json

VERSION = 1
FILE = "hashes.json"
MIN_AGE_NS = 2 * 10**9  # nanoseconds; twice the coarsest clock of a file system (even seconds of FAT)


class FileHashCache:
    """SHA-256 of files by path, stored in `workspace/hashes.json` with size, times and inode of each file.

    An entry is valid while size, times and inode are equal. As in git's index, a file that changed shortly before it
    was hashed is not cached: a change within the same tick of the clock would be invisible.

    Args:
        workspace: Folder of the cache file.
        clock: Function that returns the present time in nanoseconds.
    """

    def __init__(self, workspace: Path, clock: Callable[[], int] = time.time_ns):
        self.path, self._clock = Path(workspace) / FILE, clock
        self._entries = _load_cache(self.path)

    def get_hashes(self, paths: Iterable[Path], save: bool = True) -> list[str]:
        """Return the hash of each file, or `unreadable: REASON`.

        Entries of other files are removed from the cache.

        Args:
            paths: The files.
            save: Whether to write the cache file; false writes nothing.
        """
        entries: dict[str, list[Any]] = {}
        hashes = [self._get_hash(os.path.abspath(path), entries) for path in paths]
        if save and entries != self._entries:
            write_json(self.path, {"version": VERSION, "files": entries})
            self._entries = entries
        return hashes

    def _get_hash(self, path: str, entries: dict[str, list[Any]]) -> str:
        """Return the hash of a file, and add its entry to `entries`."""
        try:
            stat = _read_stat(path)
            entry = self._entries.get(path)
            if entry is not None and entry[:-1] == stat:
                entries[path] = entry
                return entry[-1]
            start = self._clock()
            value = sha256_file(Path(path))
            if stat == _read_stat(path) and max(stat[1:3]) + MIN_AGE_NS < start:
                entries[path] = [*stat, value]
            return value
        except OSError as error:  # extraction lists the item as invalid, with its own reason
            return f"unreadable: {error.strerror}"


def _read_stat(path: str) -> list[int]:
    """Return size, mtime, ctime and inode; ctime shows a change after which mtime was restored."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _load_cache(path: Path) -> dict[str, list[Any]]:
    """Read the valid entries of a cache file; a missing or damaged file is an empty cache."""
    try:
        content = read_json(path)
        entries = content["files"] if content["version"] == VERSION else {}
        return {name: entry for name, entry in entries.items() if _is_entry(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_entry(entry: Any) -> bool:
    has_stat = isinstance(entry, list) and len(entry) == 5 and all(isinstance(value, int) for value in entry[:4])
    return has_stat and isinstance(entry[4], str) and len(entry[4]) == 64
