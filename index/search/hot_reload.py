"""What is served now, from request to request: a new version is opened beside the old one, which closes after its last.

No request waits for another one's loading, and none sees two versions.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from index.versions.folder import read_current

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0  # seconds between two looks at CURRENT
MAX_PINNED = 2  # versions asked for by number that stay open


class Closeable(Protocol):
    """Something over one version."""

    def close(self) -> None:
        """Let go of it."""


T = TypeVar("T", bound=Closeable)


class _Entry(Generic[T]):
    def __init__(self, value: T):
        self.value, self.users, self.retired = value, 0, False


class HotReloader(Generic[T]):
    """Whatever `opening(version)` opens (None: the version that CURRENT names); safe to share between threads."""

    def __init__(self, root: Path, opening: Callable[[int | None], T], every: float = POLL_SECONDS):
        self.root, self._opening, self._every = Path(root), opening, every
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._pointer = read_current(self.root)
        self._served = _Entry(opening(None))
        self._pinned: OrderedDict[int, _Entry[T]] = OrderedDict()
        self._looked = time.monotonic()
        self.last_error: str | None = None
        """Why the version that CURRENT names could not be opened: the one before answers on."""

    @contextmanager
    def borrow(self, version: int | None = None) -> Iterator[T]:
        """What to answer one request with: the served version, or a pinned one.

        Raises what `opening` does for a pinned version that cannot be opened.
        """
        entry = self._take_served() if version is None else self._take_pinned(version)
        try:
            yield entry.value
        finally:
            with self._lock:
                entry.users -= 1
                unused = entry.retired and not entry.users
            if unused:
                entry.value.close()

    def close(self) -> None:
        """Close what no request uses; the rest after its last."""
        for entry in (self._served, *self._pinned.values()):
            self._retire(entry)

    def _take_served(self) -> _Entry[T]:
        self._look()
        with self._lock:
            self._served.users += 1
            return self._served

    def _take_pinned(self, version: int) -> _Entry[T]:
        with self._lock:
            entry = self._pinned.get(version)
            if entry is not None:
                self._pinned.move_to_end(version)
                entry.users += 1
                return entry
        new = _Entry(self._opening(version))
        with self._lock:
            entry = self._pinned.setdefault(version, new)  # another request may have been quicker
            entry.users += 1
            dropped = [] if entry is new else [new]
            while len(self._pinned) > MAX_PINNED:
                dropped.append(self._pinned.popitem(last=False)[1])
        for old in dropped:
            self._retire(old)
        return entry

    def _look(self) -> None:
        if time.monotonic() - self._looked < self._every or not self._looking.acquire(blocking=False):
            return  # looked at just now, or another request is loading: it will be there for the next one
        try:
            self._follow()
        finally:
            self._looked = time.monotonic()
            self._looking.release()

    def _follow(self) -> None:
        try:
            pointer: dict[str, Any] | None = read_current(self.root)
            if pointer == self._pointer:
                return
            entry = _Entry(self._opening(None))
        except Exception as error:  # whatever a version does to its reader, the one before is sound
            if str(error) != self.last_error:
                log.warning("a new version cannot be opened, the one before answers on: %s", error)
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
