"""Readers hold the manifest of what they have open by a shared lock, which dies with them: it is not collected."""

import errno
import fcntl
import os
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # a file system without them: nothing is held there


class Hold:
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


def hold(path: Path) -> Hold | None:
    """Hold a file; None if it is being removed, or is gone."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _locked(handle, fcntl.LOCK_SH) and path.stat().st_ino == os.fstat(handle).st_ino:
            return Hold(handle)
    except FileNotFoundError:  # removed between the two
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def held(path: Path, remove: bool) -> bool:
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
