"""Limits of the search service, and the bounded queues that its work runs in."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from pipeline.service.failures import Failure, call

T = TypeVar("T")

# Connections
MAX_CONNECTIONS = 256
DESCRIPTORS_PER_CONNECTION = 4  # of the limit of open files; the others are for new connections and index versions
BACKLOG = 128  # connections that the operating system holds, and that are accepted at a time
HEAD_SECONDS = 10  # from the connection or the previous answer to the end of a request head
REQUEST_SECONDS = 60  # from the end of a request head to the last byte of the answer
ANSWER_SECONDS = 30  # from the end of a request to its answer
DRAIN_SECONDS = 1  # after SIGTERM, for a request that is on its way on an open connection
KEEP_ALIVE_SECONDS = 5  # without a byte of the next request
SHUTDOWN_SECONDS = ANSWER_SECONDS + 2  # for requests that are being answered
EXIT_SECONDS = SHUTDOWN_SECONDS + 5  # from SIGTERM to the end of the process, whatever happens

# Request heads: Apache's LimitRequestLine and LimitRequestFields
MAX_TARGET_BYTES = 8_000
MAX_HEAD_BYTES = 16_000
MAX_HEADERS = 100
MAX_PARAMETERS = 32

# Searches
MAX_HITS = 1_000  # of all queries of a request together
MAX_PHOTOS = 8  # in a request; each takes a detector some tenths of a second
MAX_WAITING_QUERIES = 512
MAX_WAITING_PHOTOS = 8
FILTER_SECONDS = 3  # the 2 threads of all searches are few, and a filter reads the metadata of all items

# Request bodies
MAX_UPLOAD_BYTES = 25 << 20
MAX_JSON_BYTES = 8 << 20  # a parsed body needs up to 30 times as much
MAX_BUFFERED_BYTES = 128 << 20  # of all uploads together
MIN_CHUNK_BYTES = 256  # on average, after `FREE_CHUNKS`; the size of the smallest network packets is 536
FREE_CHUNKS = 1_000
BODY_SECONDS = 30
MIN_BODY_RATE = 10_000  # bytes per second, after `FREE_BODY_SECONDS`
FREE_BODY_SECONDS = 10
DISCARD_SECONDS = 5  # for the rest of a body whose answer is known before its end
RETRY_SECONDS = 2  # what an answer with status 503 asks a client to wait


class BusyError(Exception):
    """The service has as much work as it accepts; the client may try again."""


class WorkQueue:
    """Threads for one kind of work, with a bound on what waits for them.

    Args:
        name: Name of the threads.
        num_threads: Number of calls that run at the same time.
        max_waiting: Number of calls that may wait for a thread.
    """

    def __init__(self, name: str, num_threads: int, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
        self._max_calls, self._num_calls, self._lock = num_threads + max_waiting, 0, threading.Lock()

    @property
    def num_calls(self) -> int:
        """Number of calls that run or wait."""
        return self._num_calls

    def check_room(self) -> None:
        """Raise `BusyError` if another call would not be accepted."""
        with self._lock:
            if self._num_calls >= self._max_calls:
                raise BusyError

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in a thread.

        Raises:
            BusyError: Too many calls wait.
        """
        self.check_room()
        with self._lock:
            self._num_calls += 1
        future: Future[T | Failure] = self._pool.submit(call, function)
        # The place is free when the thread has finished, not when the request is cancelled: threads cannot be stopped.
        future.add_done_callback(self._release)
        result: T | Failure | None = None
        try:
            result = await asyncio.wrap_future(future)
            if isinstance(result, Failure):
                raise result.take()
            return result
        finally:  # the traceback of an error keeps all variables, and `function` keeps a body
            del function, future, result

    def close(self) -> None:
        """Drop the calls that wait, and do not wait for those that run."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _release(self, _: Future[Any]) -> None:
        with self._lock:
            self._num_calls -= 1


class ByteBudget:
    """Bound on the bytes of all request bodies in memory."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used = max_bytes, 0

    def take(self, num_bytes: int) -> None:
        """Count bytes, or raise `BusyError` if there would be too many."""
        if self._used + num_bytes > self._max_bytes:
            raise BusyError
        self._used += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Stop counting bytes."""
        self._used -= num_bytes
