"""Hot reload: serve the published version, and open a new one while the old one finishes its requests.

No request waits for another one's loading, and none uses two versions.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from index.versions.folder import read_current

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0  # minimum time between two reads of CURRENT
MAX_PINNED = 2  # versions requested by number that stay open


class Closeable(Protocol):
    """An object that uses one version."""

    def close(self) -> None:
        """Release the version."""


T = TypeVar("T", bound=Closeable)


class _Entry(Generic[T]):
    """An open object, the number of its requests, and whether it closes after the last."""

    def __init__(self, value: T):
        self.value, self.users, self.retired = value, 0, False


class HotReloader(Generic[T]):
    """Keeps the object of the published version open, and of a few pinned ones.

    Safe to share between threads.

    Args:
        open_version: Opens the object of a version; None: of the version that CURRENT names.
        poll_seconds: Minimum time between two reads of CURRENT.
    """

    def __init__(self, root: Path, open_version: Callable[[int | None], T], poll_seconds: float = POLL_SECONDS):
        self.root, self._open_version, self._poll_seconds = Path(root), open_version, poll_seconds
        self._lock, self._reload_lock = threading.Lock(), threading.Lock()
        self._pointer = read_current(self.root)
        self._served = _Entry(open_version(None))
        self._pinned: OrderedDict[int, _Entry[T]] = OrderedDict()
        self._last_poll = time.monotonic()
        self.last_error: str | None = None
        """why the version that CURRENT names could not be opened, so that the previous one still answers; or None"""

    @property
    def served(self) -> T:
        """The object of the served version, to look at without using it: it may be closed at any time."""
        with self._lock:
            return self._served.value

    @contextmanager
    def borrow(self, version: int | None = None) -> Iterator[T]:
        """Lend the object that answers one request: of the served version, or of a pinned one.

        Raises:
            Exception: Whatever `open_version` raises for a pinned version that cannot be opened.
        """
        entry = self._borrow_served() if version is None else self._borrow_pinned(version)
        try:
            yield entry.value
        finally:
            with self._lock:
                entry.users -= 1
                unused = entry.retired and not entry.users
            if unused:
                entry.value.close()

    def close(self) -> None:
        """Close every object that no request uses now, and the others after their last request."""
        for entry in (self._served, *self._pinned.values()):
            self._retire(entry)

    def _borrow_served(self) -> _Entry[T]:
        self._poll()
        with self._lock:
            self._served.users += 1
            return self._served

    def _borrow_pinned(self, version: int) -> _Entry[T]:
        with self._lock:
            entry = self._pinned.get(version)
            if entry is not None:
                self._pinned.move_to_end(version)
                entry.users += 1
                return entry
        new = _Entry(self._open_version(version))
        with self._lock:
            entry = self._pinned.setdefault(version, new)  # another request may have been faster
            entry.users += 1
            dropped = [] if entry is new else [new]
            while len(self._pinned) > MAX_PINNED:
                dropped.append(self._pinned.popitem(last=False)[1])
        for old in dropped:
            self._retire(old)
        return entry

    def _poll(self) -> None:
        if time.monotonic() - self._last_poll < self._poll_seconds or not self._reload_lock.acquire(blocking=False):
            return  # polled just now, or another request is loading a version for the requests after it
        try:
            self._reload()
        finally:
            self._last_poll = time.monotonic()
            self._reload_lock.release()

    def _reload(self) -> None:
        try:
            pointer = read_current(self.root)
            if pointer == self._pointer:
                self.last_error = None
                return
            entry = _Entry(self._open_version(None))
        except Exception as error:  # whatever is wrong with a new version, the previous one still works
            if str(error) != self.last_error:
                log.warning("The new version cannot be opened, the previous one is still served: %s", error)
            self.last_error = str(error)
            return
        with self._lock:
            old, self._served, self._pointer, self.last_error = self._served, entry, pointer, None
        self._retire(old)

    def _retire(self, entry: _Entry[T]) -> None:
        with self._lock:
            unused, entry.retired = not entry.users and not entry.retired, True
        if unused:
            entry.value.close()
