"""Small images of the page: made once per content of a file, kept in memory within a bound."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from pipeline.pages.cards import encode_thumbnail

MAX_CACHE_BYTES = 32 << 20  # about 2,000 thumbnails


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG of an image."""

    content: bytes
    etag: str
    """Entity tag of the content, with quotation marks (RFC 9110, section 8.8.3)."""


class ThumbnailCache:
    """Thumbnails of image files; the least recently used ones are dropped. Safe to share between threads.

    A file that changes (size, times, inode) gets a new thumbnail. Nothing is written to disk.
    """

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._max_bytes, self._num_bytes, self._lock = max_bytes, 0, threading.Lock()
        self._thumbnails: OrderedDict[tuple[Path, int, int, int, int, int], Thumbnail] = OrderedDict()

    def get(self, path: Path, width: int) -> Thumbnail | None:
        """Return the thumbnail of an image file.

        Args:
            path: Image file.
            width: Maximum width in pixels; the height is at most 3/4 of it.

        Returns:
            The thumbnail; None if the file cannot be read.
        """
        try:
            stat = path.stat()
        except (OSError, ValueError):
            return None
        key = (path, width, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        with self._lock:
            if key in self._thumbnails:
                self._thumbnails.move_to_end(key)
                return self._thumbnails[key]
        content = encode_thumbnail(path, (width, width * 3 // 4))
        if content is None:
            return None
        thumbnail = Thumbnail(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        with self._lock:
            self._num_bytes += len(content) if key not in self._thumbnails else 0
            self._thumbnails[key] = thumbnail
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= len(self._thumbnails.popitem(last=False)[1].content)
        return thumbnail
