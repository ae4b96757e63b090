"""Log of the search service: one line per event, with visible characters, and a bound on lines of one kind."""

import logging
import threading
import time
from typing import Any

from data.text import printable

WINDOW_SECONDS = 10.0
MAX_LINES = 200  # of one kind in a window
MAX_TRACEBACKS = 3  # of one kind in a window


class RepeatFilter(logging.Filter):
    """Drop log records of one kind beyond a number per window of time, and count what was dropped.

    A kind is a logger and a message before its values are inserted. Without a bound, anyone could fill the disk: at the
    limit of open files, asyncio logs a traceback for each connection that it cannot accept.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is to be written; the first one of a window gets the number of dropped ones."""
        now, kind = time.monotonic(), (record.name, str(record.msg)[:200])
        with self._lock:
            window = self._windows.setdefault(kind, _Window(now))
            if now - window.start >= WINDOW_SECONDS:
                if window.num_dropped:
                    record.__dict__["dropped"] = f" ({window.num_dropped:,} lines of this kind were not written)"
                window.start, window.num_lines, window.num_dropped = now, 0, 0
            window.num_lines += 1
            if window.num_lines > (MAX_TRACEBACKS if record.exc_info else MAX_LINES):
                window.num_dropped += 1
                return False
        return True


class _Window:
    def __init__(self, start: float) -> None:
        self.start, self.num_lines, self.num_dropped = start, 0, 0


class LineFormatter(logging.Formatter):
    """Format a record as time, level and message; the message is one line of visible characters."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the first line of a record; a traceback follows."""
        record.message = printable(record.message) + getattr(record, "dropped", "")
        return super().formatMessage(record)


def make_log_config() -> dict[str, Any]:
    """Return the configuration of `logging`: every logger writes to the standard error stream."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"repeats": {"()": RepeatFilter}},
        "formatters": {"line": {"()": LineFormatter, "format": "%(asctime)s %(levelname)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["repeats"]}},
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {"uvicorn": {"level": "INFO"}},
    }
