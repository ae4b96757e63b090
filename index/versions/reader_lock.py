"""Reader locks: an open version's manifest has a shared flock, so that garbage collection keeps the version."""

import errno
import fcntl
import os
import time
from pathlib import Path

from index.versions.folder import manifest_path, read_current_or_none, read_version_manifest
from index.versions.manifest import Manifest

TRIES = 20  # attempts to lock the version that CURRENT names while versions are published and deleted
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system without locks: there nothing is protected


class ReaderLock:
    """A shared lock on a file.

    It ends when it is closed, garbage collected by Python, or with its process.
    """

    def __init__(self, handle: int):
        self._handle = handle

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def __del__(self) -> None:
        self.close()


def acquire_reader_lock(path: Path) -> ReaderLock | None:
    """Lock a file for reading; None if it is being deleted or does not exist."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _try_lock(handle, fcntl.LOCK_SH) and path.stat().st_ino == os.fstat(handle).st_ino:
            return ReaderLock(handle)
    except FileNotFoundError:  # deleted between the two calls
        pass
    except BaseException:  # also KeyboardInterrupt: nothing else would close the handle
        os.close(handle)
        raise
    os.close(handle)
    return None


def lock_manifest(root: Path, version: int | None = None) -> tuple[Manifest, ReaderLock]:
    """Read the manifest of a version (None: the published one) and lock it.

    Raises:
        FileNotFoundError, ValueError: As `read_version_manifest`.
    """
    for _ in range(TRIES):
        pointer = read_current_or_none(root)
        try:
            manifest = read_version_manifest(root, version)
        except FileNotFoundError:
            if version is None and read_current_or_none(root) != pointer:
                continue  # CURRENT has moved on, and the version that it named was deleted
            raise
        if (lock := acquire_reader_lock(manifest_path(root, manifest.version))) is not None:
            return manifest, lock
        time.sleep(0.01)  # it was deleted just now, so CURRENT, whose version never is, names another one
    raise FileNotFoundError(
        f"The versions of {root} are deleted as fast as they are opened. Try again, or open another version."
    )


def is_in_use(path: Path, remove: bool) -> bool:
    """Return whether a reader holds a file; if none does and `remove` is set, delete it before one can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if not _try_lock(handle, fcntl.LOCK_EX):
            return True
        if remove:
            path.unlink()
        return False
    finally:
        os.close(handle)


def _try_lock(handle: int, mode: int) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EBADF and mode == fcntl.LOCK_EX:  # NFS locks exclusively only what is open for writing
            return False
        if error.errno not in NO_LOCKS:
            raise
    return True
