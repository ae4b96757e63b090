"""Who may write to a store: one process at a time, and the lock dies with it."""

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
    """Another process writes there, and goes on doing so: later it may be free."""


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Be the one writer of a store for as long as the block lasts; its own worker processes need not ask.

    Raises HeldError naming the process that holds the store. A killed holder leaves no lock behind.
    """
    with open(Path(folder) / ".writer", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WriteLockError(
                f"{folder} is being written by {_holder(file)}: wait until it has ended, or stop it, and run this "
                "again; what is finished is kept."
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


def _holder(file: TextIO) -> str:
    """Who wrote into the lock, and how long ago: by the file's time, and never in the future, if a clock went back."""
    file.seek(0)
    minutes = max(0, int(time.time() - os.fstat(file.fileno()).st_mtime)) // 60
    holder = file.read(500).strip()
    return f"{holder} ({minutes} min ago)" if holder else "another process"


@contextmanager
def manifest_lock(folder: Path) -> Iterator[None]:
    """Hold a store's manifest for the moment in which it is read, extended and written; others wait."""
    with open(Path(folder) / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
