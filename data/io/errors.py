"""Errors of the machine: find the cause that a library has wrapped in an error of its own, and say what to do next."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

HINTS = {
    errno.ENOSPC: "Free disk space",
    errno.EDQUOT: "Free space in your disk quota",
    errno.EFBIG: "Raise the limit on the file size (`ulimit -f`)",
    errno.ENOMEM: "Free memory",
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "Close other programs, because the machine has too many open files",
    errno.EIO: "Check the disk",
    errno.EROFS: "Mount the file system for writing, or choose a workspace on another one",
    errno.EACCES: "Change the permissions, or choose another path",
    errno.EPERM: "Change the owner or the permissions, or choose another path",
    errno.EISDIR: "Pass the path of a file, or move the folder away",
    errno.ENOTDIR: "Pass a path whose parents are folders",
    errno.ENOENT: "Check the path",
    errno.EEXIST: "Choose another path, or move the file or folder away",
    errno.ENOTEMPTY: "Choose another path, or move the files away",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ELOOP: "Replace the symbolic links that point to each other",
    errno.ESTALE: "Mount the network file system again",
    errno.ENOTCONN: "Mount the network file system again",
    errno.ETIMEDOUT: "Check the connection to the network file system",
    errno.EADDRINUSE: "Pass another --port, or stop the program that listens there",
    errno.EADDRNOTAVAIL: "Pass a --host that this machine has",
}
"""What to do about an error of the operating system, by its number."""
DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""The file system takes no more bytes; a retry without a change fails again."""
# How libraries quote errors of the operating system: h5py and safetensors by number, faiss and torch by text.
_QUOTED_NUMBER = re.compile(r"\b(?:errno = |os error |Errno )(\d{1,3})\b")
_QUOTED_TEXT = {os.strerror(number): number for number in sorted(DISK_ERRNOS)}
_SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written$")  # numpy, without the cause: most often a full disk
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory|bad_alloc|unable to allocate", re.I)
MEMORY_HINT = "Free memory, or pass `--set workers=1` or a smaller `images_per_shard`, then run the same command again"


class WriteError(OSError):
    """A file cannot be written because of the machine: a full disk, a quota, a read-only file system."""

    def __str__(self) -> str:
        """Return one line with the file, the cause and the next step."""
        hint = HINTS.get(self.errno or 0, "Remove the cause")
        if self.errno == errno.EFBIG and Path(str(self.filename)).name.startswith("shard-"):
            hint += " or make shards smaller (`images_per_shard`, `captions_per_shard`)"
        return (
            f"[Errno {self.errno}] {self.filename} cannot be written: {self.strerror}. {hint} and run the same command "
            "again: finished work is kept."
        )


def iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that it was raised from or while handling, each once."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            pending += [cause for cause in (current.__cause__, current.__context__) if cause is not None]


def find_os_error(error: BaseException) -> OSError | None:
    """Find the error of the operating system behind an error of a library such as torch, safetensors, h5py or faiss.

    Returns:
        The error of the operating system, with its number; None if there is none behind `error`.
    """
    for cause in iter_causes(error):
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause
        if number := _find_quoted_number(str(cause)):
            return OSError(number, os.strerror(number))
    return None


def _find_quoted_number(text: str) -> int | None:
    if quoted := _QUOTED_NUMBER.search(text):
        return int(quoted[1])
    if _SHORT_WRITE.search(text):
        return errno.ENOSPC
    return next((number for name, number in _QUOTED_TEXT.items() if name in text), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is exhausted: MemoryError, or how torch, HDF5 and faiss report it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))
    )


def describe_error(error: BaseException) -> str:
    """Describe an error of the machine or of the input in one sentence or more, with the next step.

    Returns:
        The message of the error. For exhausted memory and for errors of the operating system, the next step is added.
    """
    if is_out_of_memory(error):
        detail = str(error).partition("\n")[0]
        return f"Memory is exhausted{f' ({detail})' if detail else ''}. {MEMORY_HINT}: finished work is kept."
    hint = HINTS.get(getattr(error, "errno", None) or 0)
    text = str(error) or type(error).__name__
    if (
        not isinstance(error, OSError)
        or isinstance(error, WriteError)
        or hint is None
        or ". " in (error.strerror or "")
    ):
        return text
    kept = ": finished work is kept" if error.errno in DISK_ERRNOS else ""
    return f"{text}. {hint}, then run the same command again{kept}."
