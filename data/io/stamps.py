"""Stamps of files: a file that still has the stamp of an earlier check need not be read again.

A file that is written, truncated, touched, replaced or restored gets another ctime or inode, and no system call sets a
ctime. Damage below the file system (a failing disk) changes no stamp.
"""

import os
import time
from pathlib import Path

MIN_AGE_SECONDS = 2.0  # a younger file may change again within one tick of a coarse clock
Stamp = list[int]
"""Bytes, inode and ctime in nanoseconds."""


def read_stamp(path: Path | str) -> Stamp:
    """Read the stamp of a file.

    Raises:
        OSError: The file is missing.
    """
    stat = os.stat(path)
    return [stat.st_size, stat.st_ino, stat.st_ctime_ns]


def is_settled(stamp: Stamp) -> bool:
    """Return whether a file is unmodified for `MIN_AGE_SECONDS`, so that any change will give it another stamp."""
    return stamp[-1] < time.time_ns() - int(MIN_AGE_SECONDS * 1e9)
