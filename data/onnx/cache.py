"""Graphs in the cache folder of the user: named by everything that determines them, and verified when they are read.

A query on the command line does not hash a graph that still has the stamp of its last verification: the hash of a text
encoder takes 0.09 s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from data.io import (
    Stamp,
    atomic_write,
    digest,
    is_settled,
    read_json,
    read_stamp,
    sha256_file,
    write_json,
)
from data.settings import find_cache_folder

MAX_GRAPH_BYTES = 2**31 - 1  # of a protocol buffer
MAX_CACHED = 16  # graphs in the folder; a backbone has 20 to 350 MB, a text encoder 90 to 440 MB
FOLDER = "onnx"
FILE_NAME = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{12}\.(onnx|ort)")


class CacheEntry(BaseModel):
    """Sidecar file of a cached graph: written last, so that a graph without it does not count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: dict[str, Any]
    """Everything that determines the graph."""
    sha256: str
    """SHA-256 of the file of the graph."""
    info: dict[str, Any] = {}
    """What is known of the graph."""
    stamp: Stamp | None = None
    """Stamp of the file when its SHA-256 was last compared; None: not since it was written."""


class CachedGraph:
    """The place of a graph in the cache folder.

    Args:
        name: First part of the file name; what is neither a letter nor a digit becomes a hyphen.
        key: Everything that determines the graph, as JSON.
        suffix: ".onnx", or ".ort" for the format of ONNX Runtime.
    """

    def __init__(self, name: str, key: Mapping[str, Any], suffix: str) -> None:
        self._key = dict(key)
        safe_name = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
        self.path = find_cache_folder() / FOLDER / f"{safe_name}-{digest(self._key)}{suffix}"

    def find(self, rehash: bool = True) -> CacheEntry | None:
        """Read the entry of the graph.

        Args:
            rehash: Read the file even if it has the stamp of its last verification. A failing disk changes no stamp, so
                only what starts often and briefly passes False.

        Returns:
            The entry; None if the graph is missing, damaged, or not the one of the key.
        """
        try:
            entry = CacheEntry.model_validate(read_json(self._sidecar))
            stamp = read_stamp(self.path)
            if entry.key != self._key or stamp[0] > MAX_GRAPH_BYTES:
                return None
            if (rehash or entry.stamp != stamp) and sha256_file(self.path) != entry.sha256:
                return None
        except (OSError, ValueError, ValidationError):
            return None
        with suppress(OSError):  # a folder that can only be read
            if entry.stamp != stamp and is_settled(stamp):
                self._write_entry(entry.model_copy(update={"stamp": stamp}))
            else:
                os.utime(self._sidecar)  # the graphs that were not used for the longest time are removed first
        return entry

    def write(self, write_content: Callable[[Path], None], info: Mapping[str, Any] | None = None) -> None:
        """Write the graph, and remove the oldest ones if the folder has more than `MAX_CACHED`.

        Args:
            write_content: Function that writes the content into a file.
            info: What is known of the graph, as JSON.

        Raises:
            OSError: The cache folder cannot be written.
        """
        with atomic_write(self.path) as temporary:
            write_content(temporary)
            sha256 = sha256_file(temporary)
        entry = CacheEntry(key=self._key, sha256=sha256, info=dict(info or {}))
        self._write_entry(entry)
        self._remove_oldest()

    def _write_entry(self, entry: CacheEntry) -> None:
        write_json(self._sidecar, entry.model_dump(mode="json"))

    @property
    def _sidecar(self) -> Path:
        return self.path.with_suffix(".json")

    def _remove_oldest(self) -> None:
        graphs = [path for path in self.path.parent.iterdir() if FILE_NAME.fullmatch(path.name) and path != self.path]
        for path in sorted(graphs, key=_read_time_of_use)[: -(MAX_CACHED - 1)]:
            for file in (path.with_suffix(".json"), path):  # the sidecar first: a graph without one does not count
                file.unlink(missing_ok=True)


def _read_time_of_use(path: Path) -> float:
    """Return when a graph was last used: the time of its sidecar file, or its own while it has none."""
    sidecar = path.with_suffix(".json")
    return (sidecar if sidecar.exists() else path).lstat().st_mtime
