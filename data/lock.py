"""Who may write to a store: one process at a time, and the lock dies with it."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the one writer of a store for as long as the block lasts; its own worker processes need not ask.

    Raises ValueError naming the process that holds the store. A killed holder leaves no lock behind.
    """
    with open(Path(folder) / ".writer", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(500).strip() or "another process"
            raise ValueError(
                f"{folder} is being written by {holder}: wait until it has ended, or stop it, and run this again; "
                "what is finished is kept."
            ) from None
        file.truncate(0)
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        file.write(f"process {os.getpid()} on {platform.node()} since {now}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def listing(folder: Path) -> Iterator[None]:
    """Hold a store's manifest for the moment in which it is read, extended and written; others wait."""
    with open(Path(folder) / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
