"""Locks of folders: one process writes to a store, model or index at a time. A lock ends with its process."""

import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from data.io.files import add_path_to_errors
from data.text import printable


class WriteLockError(ValueError):
    """Another process writes to the folder; a later try may succeed."""


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Hold the write lock of a folder; worker processes of the block do not take it themselves.

    Raises:
        WriteLockError: Another process holds the lock; the message names the process.
    """
    with open(Path(folder) / ".writer", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WriteLockError(
                f"{folder} is being written by {_read_holder(file)}. Wait until it ends, or stop it; then run the "
                "command again. Finished work is kept."
            ) from None
        file.truncate(0)
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        command = printable(" ".join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]]))[:200]
        with add_path_to_errors(Path(file.name)):
            os.write(file.fileno(), f"process {os.getpid()} ({command}) on {platform.node()} since {now}\n".encode())
        try:
            yield
        finally:
            file.truncate(0)


def _read_holder(file: TextIO) -> str:
    """Read who holds the lock and for how many minutes: by the file's time, at least 0 in case the clock was reset."""
    file.seek(0)
    minutes = max(0, int(time.time() - os.fstat(file.fileno()).st_mtime)) // 60
    holder = file.read(500).strip()
    return f"{holder} ({minutes} min ago)" if holder else "another process"


@contextmanager
def manifest_lock(folder: Path) -> Iterator[None]:
    """Hold a store's manifest while it is read, extended and written; other processes wait."""
    with open(Path(folder) / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
