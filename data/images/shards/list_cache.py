"""Lists of shards, made once and kept in the user's cache folder, so that an unchanged shard is not read.

A list has no bytes of images, but texts and JSON of captions. It may be deleted.
"""

import hashlib
import json
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from data.images.shards.members import ShardList
from data.images.shards.tar_list import list_tar
from data.io.files import atomic_write
from data.io.stamps import Stamp, is_settled, read_stamp
from data.settings import find_cache_folder

VERSION = 1
FOLDER = "shards"  # in the folder for caches
MAX_KEPT_IMAGES = 1_000_000  # of all lists in memory, besides the last one; 100,000 images take 25 MB
PARQUET_SUFFIX = ".parquet"


class ShardListCache:
    """Lists of shards by path; safe to share between threads. A shard that changes gets a new list."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lists: OrderedDict[str, tuple[Stamp, ShardList | None]] = OrderedDict()
        self._is_swept = False

    def get(self, path: str) -> ShardList | None:
        """Return the list of a shard; None for a Parquet file without images.

        Raises:
            ValueError: The shard cannot be read; the message has the reason.
            OSError: It is missing, or a transient I/O error occurred.
        """
        path = path if path.startswith("/") else os.path.abspath(path)
        stamp = read_stamp(path)
        with self._lock:
            known = self._lists.get(path)
            if known is None or known[0] != stamp:
                known = self._lists[path] = (stamp, self._load_or_make(path, stamp))
                self._drop_old()
            return known[1]

    def _drop_old(self) -> None:
        sizes = [len(known.images) if known else 0 for _, known in self._lists.values()]
        total = sum(sizes)
        while total > MAX_KEPT_IMAGES and len(self._lists) > 1:
            total -= sizes.pop(0)
            self._lists.popitem(last=False)

    def _load_or_make(self, path: str, stamp: Stamp) -> ShardList | None:
        file = find_cache_folder() / FOLDER / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:40]}.json"
        loaded = _read_list(file, _make_head(path, stamp))
        if loaded is not None:
            return loaded
        made = _make_list(Path(path))
        if made is not None and is_settled(stamp) and read_stamp(path) == stamp:
            with suppress(OSError, UnicodeError):  # as of a read-only home folder: no list is kept
                if not self._is_swept:
                    self._is_swept = True
                    _delete_stale_lists(file.parent)
                _write_list(file, _make_head(path, stamp), made)
        return made


def _make_list(path: Path) -> ShardList | None:
    if path.suffix.lower() != PARQUET_SUFFIX:
        return list_tar(path)
    from data.images.shards.parquet_list import list_parquet  # lazy: most datasets need no pyarrow

    return list_parquet(path)


def _make_head(path: str, stamp: Stamp) -> dict[str, object]:
    return {"version": VERSION, "path": path, "stamp": stamp}


def _read_list(file: Path, head: dict[str, object]) -> ShardList | None:
    """Read a list whose first line is `head`; None if there is none, or it is damaged."""
    try:
        with open(file, encoding="ascii") as lines:
            if json.loads(next(lines)) != head:
                return None
            content = json.loads(next(lines))
            content["images"] = {name: (offset, size) for name, offset, size in content["images"]}
            return ShardList(**content)
    except (OSError, ValueError, TypeError, StopIteration):
        return None


def _write_list(file: Path, head: dict[str, object], shard: ShardList) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the texts may be private
    content = asdict(shard) | {"images": [(name, *position) for name, position in shard.images.items()]}
    with atomic_write(file) as temporary, open(temporary, "w", encoding="ascii") as lines:
        lines.write(json.dumps(head) + "\n" + json.dumps(content) + "\n")


def _delete_stale_lists(folder: Path) -> None:
    """Delete the lists of shards that no longer exist."""
    for file in folder.glob("*.json") if folder.is_dir() else ():
        try:
            with open(file, encoding="ascii") as lines:
                path = json.loads(next(lines))["path"]
        except (OSError, ValueError, TypeError, KeyError, StopIteration):
            path = ""
        if not os.path.exists(path):
            file.unlink(missing_ok=True)
