"""`DiskCache`: JPEG files of thumbnails in the user's folder for caches, within a bound. They may be deleted."""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from data.settings import find_cache_folder, read_settings

log = logging.getLogger(__name__)
FOLDER = "thumbnails"  # in the folder for caches
NAME = re.compile(r"[0-9a-f]{64}-\d+-\d+\.jpg")
TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{64}-\d+-\d+\.jpg\.\d+-\d+\.tmp")
STALE_SECONDS = 3_600  # after which a temporary file belongs to a process that was killed
KEPT_SHARE = 0.8  # of the bound, after files were deleted, so that this is rare
WRITES_PER_COUNT = 500  # other processes write too, so the size is measured again from time to time
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


class DiskCache:
    """Files by name; the least recently used ones are deleted. Safe to share between threads and processes.

    Nothing that goes wrong with the files is an error: then thumbnails are made from their images.

    Args:
        folder: Folder of the files; it is created when it is needed.
        max_bytes: Maximum size of all files.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes, self._lock = folder, max_bytes, threading.Lock()
        self._num_bytes, self._writes_until_count, self._is_writable = 0, 0, True

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is no complete one."""
        path = self._folder / name
        try:
            content = path.read_bytes()
        except OSError:
            return None
        # Files are written without fsync, so that they may be incomplete after a power failure.
        if not (content.startswith(JPEG_START) and content.endswith(JPEG_END)):
            return None
        with suppress(OSError):
            os.utime(path)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, and delete the least recently used ones if all together exceed the bound."""
        if not self._is_writable:
            return
        temporary = self._folder / f".{name}.{os.getpid()}-{threading.get_ident()}.tmp"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # they show private images
            try:
                temporary.write_bytes(content)
                os.replace(temporary, self._folder / name)
            except BaseException:  # an interruption would leave the temporary file too
                temporary.unlink(missing_ok=True)
                raise
            self._count(len(content))
        except OSError as error:  # such as a full disk, or a home folder that is read-only
            self._is_writable = False
            log.warning("Thumbnails are no longer written to %s: %s", self._folder, error)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._num_bytes += num_bytes
            self._writes_until_count -= 1
            if self._num_bytes > self._max_bytes or self._writes_until_count < 0:
                self._num_bytes = self._delete_old_files()
                self._writes_until_count = WRITES_PER_COUNT

    def _delete_old_files(self) -> int:
        """Delete files if there are too many bytes; return the size of the others."""
        files = sorted(self._list_files())
        total = sum(size for _, size, _ in files)
        if total <= self._max_bytes:
            return total
        for _, size, path in files:
            if total <= KEPT_SHARE * self._max_bytes:
                break
            with suppress(FileNotFoundError):
                path.unlink()
            total -= size
        return total

    def _list_files(self) -> Iterator[tuple[float, int, Path]]:
        """List time of last use, size and path of the files; temporary files of killed processes are deleted."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # deleted by another process
                    if NAME.fullmatch(entry.name):
                        stat = entry.stat(follow_symlinks=False)
                        yield stat.st_mtime, stat.st_size, Path(entry.path)
                    elif TEMPORARY_NAME.fullmatch(entry.name) and _is_stale(entry):
                        os.unlink(entry.path)


def _is_stale(entry: os.DirEntry[str]) -> bool:
    return entry.stat(follow_symlinks=False).st_mtime < time.time() - STALE_SECONDS


def open_disk_cache() -> DiskCache | None:
    """Open the cache that the environment variable TERN_THUMBNAIL_CACHE_MB bounds; None if it is 0."""
    megabytes = read_settings().thumbnail_cache_mb
    return DiskCache(find_cache_folder() / FOLDER, megabytes * 1_000_000) if megabytes else None
