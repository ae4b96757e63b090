"""Worker processes that run the jobs of a stage for its tasks. A lost worker is replaced; all end with the stage."""

import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from flows.tasks.retries import StageStoppedError
from pipeline.workers import list_processes, make_lost_worker_error, open_pool


class WorkerPool:
    """The pool of one stage.

    A worker that dies (killed, out of memory) breaks the pool; the next call opens a new one.

    Args:
        jobs: Jobs of the stage.
        num_workers: Maximum number of jobs that run at the same time.
        timeout_seconds: Time limit of one job; None means no limit. A job that exceeds it is stopped by killing all
            processes of the pool. The other running jobs are lost and retried. Threads cannot be stopped.
    """

    def __init__(self, jobs: list[Any], num_workers: int, timeout_seconds: float | None = None):
        self._jobs, self._num_workers, self._timeout_seconds = jobs, num_workers, timeout_seconds
        self._lock, self._is_stopped = threading.Lock(), False
        self._slots = threading.BoundedSemaphore(num_workers)  # the time limit does not include the wait for a worker
        self._context: AbstractContextManager[Executor] | None = None
        self._pool: Executor | None = None

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_stopped = True
        with self._lock:
            if error is not None:
                _kill(self._pool)
            self._close()

    def run(self, function: Callable[[Any], Any], job: Any) -> Any:
        """Return function(job), computed by a worker.

        Raises:
            BrokenExecutor: A worker was lost. Call again.
            TimeoutError: The job exceeded its time limit.
            StageStoppedError: The stage has ended.
            Exception: What the job raised.
        """
        with self._slots:
            return self._run(function, job)

    def _run(self, function: Callable[[Any], Any], job: Any) -> Any:
        with self._lock:
            if self._is_stopped:
                raise StageStoppedError("The stage has ended.")
            pool = self._pool or self._open()
            try:
                future = pool.submit(function, job)
            except BrokenExecutor:  # another job has lost its worker in the meantime
                self._close()
                pool = self._open()
                future = pool.submit(function, job)
            processes = list_processes(pool)
        try:
            return future.result(self._timeout_seconds)
        except BrokenExecutor as error:
            self._replace(pool)
            if self._is_stopped:
                raise StageStoppedError("The stage was stopped, and its worker processes with it.") from None
            raise make_lost_worker_error(processes) from error
        except TimeoutError:
            if future.done():  # the job itself raised it
                raise
            _kill(pool)
            self._replace(pool)
            raise TimeoutError(
                f"A shard was stopped because it took longer than {self._timeout_seconds:.0f} s. Set a smaller "
                "`images_per_shard`, or a longer TERN_SHARD_TIMEOUT_MINUTES."
            ) from None

    def _open(self) -> Executor:
        self._context = open_pool(self._jobs, self._num_workers)
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
    """Kill the processes of this pool. A pool that has replaced it in the meantime is not affected."""
    for process in list_processes(pool) if pool else ():
        process.kill()
