"""Files that are whole or absent: write beside, sync, rename. And the digests that name things."""

import errno
import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Faults of the machine, not of a file: the run stops and is resumed; nothing is judged by them.
TRANSIENT_ERRNOS = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}


TRANSIENT_ERRNOS |= {errno.EBUSY, errno.ENOTCONN, errno.ETIMEDOUT}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path`, synced, when the block ends well.

    A crash at any moment leaves the old file or the new one, never a half. On an error the temporary is removed.
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
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Where this process writes what becomes `path`; `sweep` knows such names."""
    # The suffix stays last: writers such as Pillow and Matplotlib choose the format by it.
    return path.with_name(f".{path.stem}.{platform.node()}-{os.getpid()}.tmp{path.suffix}")


@contextmanager
def add_path_to_errors(path: Path) -> Iterator[None]:
    """Say which file an error is about: one of writing, such as that of a full disk, does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_stale_temporaries(folder: Path) -> None:
    """Remove the temporaries that killed processes of this machine left in a folder."""
    for path in Path(folder).glob(".*.tmp*"):
        found = re.search(rf"\.{re.escape(platform.node())}-(\d+)\.tmp", path.name)
        if found and not _alive(int(found[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's, and alive
        return True
    return True


def fsync_path(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> Path:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: Path, obj: Any) -> Path:
    """Write `obj` as JSON with sorted keys, atomically: equal objects give equal bytes."""
    return write_text(path, json.dumps(obj, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a broken one is a ValueError that names it and the line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, of a number with too many digits
        raise ValueError(f"{path} is not valid JSON: {error}. Restore the file or make it again.") from error
