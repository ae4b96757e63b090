"""Worker processes under the tasks of a stage: replaced when one is lost, gone when the stage is."""

import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from flows.tasks.retries import StageStoppedError
from pipeline.runs import open_pool


class WorkerPool:
    """The pool of a stage's jobs. A worker that dies (killed, out of memory) breaks it; the next call gets a new one.

    `seconds` is the time limit of one job. Where it passes, the processes are ended, since nothing else stops one: the
    other jobs of the moment are lost with it and tried again. Threads that share a device cannot be stopped.
    """

    def __init__(self, jobs: list[Any], workers: int, seconds: float | None = None):
        self._jobs, self._workers, self._seconds = jobs, workers, seconds
        self._lock, self._stopped = threading.Lock(), False
        self._slots = threading.BoundedSemaphore(workers)  # a job's time does not run while it waits for its turn
        self._context: AbstractContextManager[Executor] | None = None
        self._pool: Executor | None = None

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        with self._lock:
            if error is not None:
                _kill(self._pool)
            self._close()

    def run(self, function: Callable[[Any], Any], job: Any) -> Any:
        """function(job), in a worker.

        Raises what the job raises; BrokenExecutor if a worker was lost (try again), TimeoutError past the limit, and
        StoppedError if the stage has ended.
        """
        with self._slots:
            return self._run(function, job)

    def _run(self, function: Callable[[Any], Any], job: Any) -> Any:
        with self._lock:
            if self._stopped:
                raise StageStoppedError("the stage has ended")
            pool = self._pool or self._open()
            try:
                future = pool.submit(function, job)
            except BrokenExecutor:  # another job has just lost its worker
                self._close()
                pool = self._open()
                future = pool.submit(function, job)
        try:
            return future.result(self._seconds)
        except BrokenExecutor:
            self._replace(pool)
            if self._stopped:
                raise StageStoppedError("the stage was stopped, and its worker processes with it") from None
            raise
        except TimeoutError:
            if future.done():  # the job's own
                raise
            _kill(pool)
            self._replace(pool)
            hint = "make shards smaller, or set TERN_SHARD_TIMEOUT_MINUTES"
            raise TimeoutError(f"a shard took longer than {self._seconds:.0f} s and was stopped: {hint}.") from None

    def _open(self) -> Executor:
        self._context = open_pool(self._jobs, self._workers)
        self._pool = self._context.__enter__()
        return self._pool

    def _replace(self, broken: Executor) -> None:
        with self._lock:
            if self._pool is broken:
                self._close()

    def _close(self) -> None:
        if self._context is not None:
            context, self._context, self._pool = self._context, None, None
            context.__exit__(None, None, None)


def _kill(pool: Executor | None) -> None:
    """End the processes of this pool, and not of one that has taken its place meanwhile."""
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.kill()
