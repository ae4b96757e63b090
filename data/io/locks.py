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
    """Hold the write lock of a folder while the block runs.

    Its worker processes must not take the lock again.

    Raises:
        WriteLockError: Another process holds the lock; the message names the process.
    """
    with open(Path(folder) / ".writer", "a+", encoding="utf-8", opener=_open_no_link) as file:
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


def _open_no_link(path: str, flags: int) -> int:
    """Open a lock file, but not what a link in its place names: a lock file is emptied."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _read_holder(file: TextIO) -> str:
    """Describe the process that holds the lock, with its age in minutes from the file's modification time."""
    file.seek(0)
    seconds = max(0, int(time.time() - os.fstat(file.fileno()).st_mtime))  # negative if the clock was set back
    holder = file.read(500).strip()
    return f"{holder} ({seconds // 60} min ago)" if holder else "another process"


@contextmanager
def manifest_lock(folder: Path) -> Iterator[None]:
    """Hold the manifest lock of a store while its manifest is read, changed and written.

    Other processes wait.
    """
    with open(Path(folder) / ".lock", "a", opener=_open_no_link) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
