"""Readers hold the manifest of what they have open by a shared lock, which dies with them: it is not collected."""

import errno
import fcntl
import os
import time
from pathlib import Path

from index.versions.folder import manifest_path, read_current_or_none, read_version_manifest
from index.versions.manifest import Manifest

TRIES = 20  # to take what CURRENT names while versions are published and collected
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # a file system without them: nothing is held there


class ReaderLock:
    """A shared lock on a file, until it is closed or its process ends."""

    def __init__(self, handle: int):
        self._handle = handle

    def close(self) -> None:
        """Let go; once more does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def __del__(self) -> None:
        self.close()  # a reader that was dropped and not closed holds nothing


def acquire_reader_lock(path: Path) -> ReaderLock | None:
    """Hold a file; None if it is being removed, or is gone."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _locked(handle, fcntl.LOCK_SH) and path.stat().st_ino == os.fstat(handle).st_ino:
            return ReaderLock(handle)
    except FileNotFoundError:  # removed between the two
        pass
    except BaseException:  # also Ctrl-C: nobody else would close it; the error goes on
        os.close(handle)
        raise
    os.close(handle)
    return None


def lock_manifest(root: Path, version: int | None = None) -> tuple[Manifest, ReaderLock]:
    """The manifest of `version` (default: the published one), held. Raises what `read_manifest` does."""
    for _ in range(TRIES):
        pointer = read_current_or_none(root)
        try:
            manifest = read_version_manifest(root, version)
        except FileNotFoundError:
            if version is None and read_current_or_none(root) != pointer:
                continue  # what CURRENT named was collected after CURRENT had moved on
            raise
        if (found := acquire_reader_lock(manifest_path(root, manifest.version))) is not None:
            return manifest, found
        time.sleep(0.01)  # it has just been collected; CURRENT, which never is, names another by now
    raise FileNotFoundError(f"versions of {root} are collected as fast as they are opened: ask again, or for another.")


def is_in_use(path: Path, remove: bool) -> bool:
    """Whether a reader holds a file; if none does, it is removed at `remove`, before any could."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if not _locked(handle, fcntl.LOCK_EX):
            return True
        if remove:
            path.unlink()
        return False
    finally:
        os.close(handle)


def _locked(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EBADF and how == fcntl.LOCK_EX:  # NFS gives this one for writing alone
            return False
        if error.errno not in NO_LOCKS:
            raise
    return True
