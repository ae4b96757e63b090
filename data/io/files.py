"""Atomic writes: write to a temporary file, fsync, rename. A reader sees the old file or the new one, never a part."""

import errno
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from data.io.errors import DISK_ERRNOS, WriteError, find_os_error
from data.io.json_text import parse_json
from data.io.limits import MAX_JSON_BYTES, check_limit

# Errors of the machine, not of the file: the run stops and can be resumed, and no item becomes invalid.
TRANSIENT_ERRNOS = {
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
    *(errno.EBUSY, errno.ENOTCONN, errno.ETIMEDOUT),
}

MAX_STEM_BYTES = 100  # of a file name of at most 255 bytes
TEMPORARY_NAME = re.compile(
    r"\.(?P<stem>.+)\.(?P<space>[0-9a-f]{12})-(?P<process>\d+)\.tmp(?P<suffix>(\.[^.]*)?)", re.DOTALL
)
STALE_SECONDS = 86_400  # without a write, after which the process of another machine or container counts as ended


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically.

    A crash leaves the old file or the new one. After an error the temporary file is removed.

    Yields:
        The temporary path to write to; it is synced and renamed to `path` when the block ends without an error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with add_path_to_errors(path):
            yield temporary
            fsync_path(temporary)
            os.replace(temporary, path)
            fsync_path(path.parent)
    finally:
        with suppress(OSError):  # on a file system that is read-only, it would hide the error of the block
            temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return the temporary path of this process for a file; `remove_stale_temporaries` knows the pattern."""
    # The suffix stays last: writers such as Pillow and Matplotlib choose the format by it.
    return path.with_name(f".{_shorten(path.stem)}.{_identify_process_space()}-{os.getpid()}.tmp{path.suffix}")


@cache
def _identify_process_space() -> str:
    """Return 12 hex digits for what a process id is unique in: one boot of a machine, or one container on it.

    The host name alone is not enough: containers can share it, such as with the network of their machine, and the
    process ids of each begin at 1.
    """
    parts = [platform.node()]
    with suppress(OSError):  # systems without /proc have no containers either
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256(os.fsencode("\n".join(parts))).hexdigest()[:12]


def _shorten(stem: str) -> str:
    """Return a name for a temporary file, which also has the ids of the machine and the process."""
    return stem if len(os.fsencode(stem)) <= MAX_STEM_BYTES else hashlib.sha256(os.fsencode(stem)).hexdigest()


@contextmanager
def add_path_to_errors(path: Path) -> Iterator[None]:
    """Add the path to an OSError without one, and report a full disk as `WriteError`, whichever library wraps it.

    torch raises RuntimeError, safetensors its own type, SQLite and faiss others.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:  # any type of any library; all but errors of the disk are raised unchanged
        cause = find_os_error(error)
        if cause is not None and cause.errno is not None and cause.errno in DISK_ERRNOS:
            raise WriteError(cause.errno, os.strerror(cause.errno), str(path)) from error
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_stale_temporaries(folder: Path, paths: Iterable[Path] | None = None) -> None:
    """Remove the temporary files in a folder that killed processes left.

    Whether a process runs is known for those of this machine and container. A file of another one, or of an earlier
    boot, is removed when it has not been written to for `STALE_SECONDS`.

    Args:
        paths: The files whose temporary files are removed, for a folder of a user; None removes those of any file, in
            a folder that belongs to this program.
    """
    stems = None if paths is None else {(_shorten(path.stem), path.suffix) for path in paths}
    for path in Path(folder).glob(".*.tmp*"):
        found = TEMPORARY_NAME.fullmatch(path.name)
        if found is None or not path.is_file() or path.is_symlink() or not _is_stale(path, found):
            continue
        if stems is None or (found["stem"], found["suffix"]) in stems:
            path.unlink(missing_ok=True)


def _is_stale(path: Path, found: re.Match[str]) -> bool:
    if found["space"] == _identify_process_space():
        return not _is_alive(int(found["process"]))
    with suppress(FileNotFoundError):  # renamed by its process
        return path.stat().st_mtime < time.time() - STALE_SECONDS
    return False


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and of another user
        return True
    return True


def fsync_path(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, so that it survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_within(path: Path, folder: Path) -> bool:
    """Return whether a path is `folder` or below it, with links resolved; the path need not exist."""
    target, resolved = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    return any(
        parent == target or (target.exists() and parent.exists() and parent.samefile(target))
        for parent in (resolved, *resolved.parents)
    )


def check_output_file(path: Path, force: bool = False) -> None:
    """Check that an output file of a user may be written; call it before any work is done.

    Args:
        force: Whether an existing file may be overwritten.

    Raises:
        FileExistsError: The file exists, and `force` is false.
        ValueError: The path is a folder or a device, or a parent of it is a file.
    """
    if (path.exists() and not path.is_file()) or any(p.exists() and not p.is_dir() for p in path.parents):
        raise ValueError(f"{path} is not the path of a file: a folder, a device or a file is there. Pass another name.")
    if os.path.lexists(path) and not force:
        raise FileExistsError(f"{path} already exists. Pass another name, or --force to overwrite it.")


def write_text(path: Path, text: str) -> Path:
    """Write a text in UTF-8, atomically; return the path."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: Path, obj: Any) -> Path:
    """Write JSON with sorted keys, atomically: equal objects give equal bytes; return the path."""
    return write_text(path, format_json(obj))


def format_json(obj: Any) -> str:
    """Return the text that `write_json` writes."""
    return json.dumps(obj, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, advice: str = "Restore the file, or delete it and run again") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        advice: What to do if it is not valid; a file that this program did not write is never to be deleted.

    Raises:
        ValueError: The file is too large or not valid JSON, or an object has a key twice; the message has the file.
    """
    check_limit(str(path), Path(path).stat().st_size, MAX_JSON_BYTES)
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # invalid JSON or UTF-8
        raise ValueError(f"{path} is not valid JSON: {error}. {advice}.") from error
