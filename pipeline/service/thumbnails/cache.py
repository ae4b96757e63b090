"""`ThumbnailCache`: the thumbnail of an image file, from memory, from disk, or made now."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from data.images import encode_thumbnail, hash_image, stat_image
from pipeline.service.thumbnails.disk import DiskCache

MAX_CACHE_BYTES = 32 << 20  # about 2,000 thumbnails
FORMAT = 1  # part of the names on disk: higher when thumbnails of the same content become different
Identity = tuple[int, int, int, int]
"""Size, times and inode of a file, or of a shard: another identity means that its content may have changed."""


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG of an image."""

    content: bytes
    etag: str
    """Entity tag of the content, with quotation marks (RFC 9110, section 8.8.3)."""


class ThumbnailCache:
    """Thumbnails of image files; the least recently used ones are dropped. Safe to share between threads.

    A file that changes (size, times, inode) gets a new thumbnail.

    Args:
        max_bytes: Maximum size of all thumbnails in memory.
        disk: Cache on disk, by the content of the file; None keeps thumbnails in memory only.
    """

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES, disk: DiskCache | None = None) -> None:
        self._max_bytes, self._num_bytes, self._lock, self._disk = max_bytes, 0, threading.Lock(), disk
        self._thumbnails: OrderedDict[tuple[Path, int, Identity], Thumbnail] = OrderedDict()

    def get(self, path: Path, width: int) -> Thumbnail | None:
        """Return the thumbnail of an image file.

        Args:
            path: Image file.
            width: Maximum width in pixels; the height is at most 3/4 of it.

        Returns:
            The thumbnail; None if the file cannot be read.
        """
        try:
            key = (path, width, _identify(path))
        except (OSError, ValueError):
            return None
        with self._lock:
            if key in self._thumbnails:
                self._thumbnails.move_to_end(key)
                return self._thumbnails[key]
        content = self._find_or_make(*key)
        if content is None:
            return None
        thumbnail = Thumbnail(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        with self._lock:
            self._num_bytes += len(content) if key not in self._thumbnails else 0
            self._thumbnails[key] = thumbnail
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= len(self._thumbnails.popitem(last=False)[1].content)
        return thumbnail

    def _find_or_make(self, path: Path, width: int, identity: Identity) -> bytes | None:
        """Return the JPEG of a thumbnail that is not in memory."""
        size = (width, width * 3 // 4)
        if self._disk is None:
            return encode_thumbnail(path, size)
        try:
            name = f"{hash_image(path)}-{width}-{FORMAT}.jpg"
            content = self._disk.read(name)
            if content is None:
                content = encode_thumbnail(path, size)
                if content is not None and _identify(path) == identity:  # else, the hash is that of another content
                    self._disk.write(name, content)
        except (OSError, ValueError):
            return None
        return content


def _identify(path: Path) -> Identity:
    stat = stat_image(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
