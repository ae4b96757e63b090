"""`Dispatcher`: queries that wait are answered together, in one pass of the models and one search."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from fastapi import HTTPException

from index.metadata import limit_filter_time
from pipeline.search.hits import Answer
from pipeline.search.index_searcher import IndexSearcher
from pipeline.search.query import SearchRequest
from pipeline.service.api.searchers import VersionedSearchers
from pipeline.service.failures import Failure, call, drop_frames
from pipeline.service.limits import ANSWER_SECONDS, FILTER_SECONDS, BusyError
from pipeline.service.metrics import Metrics

T = TypeVar("T")
Results = Sequence[Answer | ValueError]
"""Per query its answer, or why it has none"""
Finish = Callable[[IndexSearcher, Results], T]
"""Makes the response of one request, in the thread that searched"""


@dataclass(frozen=True)
class _Job:
    version: str
    requests: Sequence[SearchRequest]
    finish: Finish[Any]
    cost: int
    future: Future[Any] = field(default_factory=Future)
    start: float = field(default_factory=time.monotonic)

    @property
    def group(self) -> tuple[str, str | None]:
        """What requests have in common that are answered together: one slow filter delays no other request."""
        return self.version, self.requests[0].where if self.requests else None


class Dispatcher:
    """Threads that answer searches. A thread that becomes free takes all waiting queries of one version, up to a limit.

    Nothing waits for a timer: a query that finds a free thread is answered at once and alone.

    Args:
        name: Name of the threads, and of the queue in the metrics.
        searchers: Searchers by version.
        metrics: Metrics of the service.
        num_threads: Number of passes that run at the same time.
        max_waiting: Maximum cost of what waits.
        max_batch: Maximum number of queries of a pass; 1 answers each request alone.
    """

    def __init__(
        self,
        name: str,
        searchers: VersionedSearchers,
        metrics: Metrics,
        num_threads: int,
        max_waiting: int,
        max_batch: int,
    ) -> None:
        self._searchers, self._metrics = searchers, metrics
        self._max_waiting, self._max_batch = max_waiting, max_batch
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._cost, self._is_closed = 0, False
        metrics.add_queue(name, lambda: len(self._waiting))
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def check_room(self) -> None:
        """Raise `BusyError` if another request would not be accepted."""
        if self._cost >= self._max_waiting:
            raise BusyError

    async def run(self, version: str, requests: Sequence[SearchRequest], finish: Finish[T], cost: int = 1) -> T:
        """Answer the queries of one request.

        Args:
            version: Number or tag; empty for the published version.
            requests: Queries, all with the same filter; they may be none.
            finish: Makes the result of their answers.
            cost: What the request counts while it waits.

        Raises:
            BusyError: Too much waits.
            HTTPException: There is no such version (404), or the answer takes too long (504).
        """
        job = _Job(version, requests, finish, cost)
        with self._changed:
            if self._is_closed or (self._waiting and self._cost + cost > self._max_waiting):
                raise BusyError
            self._cost += cost
            self._waiting.append(job)
            self._changed.notify()
        result: Any = None
        try:
            result = await _wait(job.future)
            if isinstance(result, Failure):
                raise result.take()
            return cast(T, result)
        finally:  # the traceback of an error keeps all variables
            del job, requests, finish, result

    def close(self) -> None:
        """Drop what waits, and do not wait for what runs."""
        with self._changed:
            self._is_closed = True
            while self._waiting:
                self._waiting.popleft().future.cancel()
            self._changed.notify_all()

    def _work(self) -> None:
        while jobs := self._take_jobs():
            now = time.monotonic()
            for job in jobs:
                self._metrics.stage_seconds.labels("wait").observe(now - job.start)
            self._answer(jobs)
            del jobs  # a thread that waits holds no searcher, so that a former version can close

    def _take_jobs(self) -> list[_Job]:
        """Wait for requests, and take those that are answered together; none if the dispatcher is closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return []
                jobs = [job for job in self._select_jobs() if job.future.set_running_or_notify_cancel()]
                if jobs:  # else, all clients had left
                    return jobs

    def _select_jobs(self) -> list[_Job]:
        first = self._waiting.popleft()
        selected, others, num_queries = [first], deque[_Job](), len(first.requests)
        while self._waiting and num_queries < self._max_batch:
            job = self._waiting.popleft()
            if job.group == first.group and num_queries + len(job.requests) <= self._max_batch:
                selected.append(job)
                num_queries += len(job.requests)
            else:
                others.append(job)
        self._waiting.extendleft(reversed(others))
        self._cost -= sum(job.cost for job in selected)
        return selected

    def _answer(self, jobs: list[_Job]) -> None:
        """Answer requests together; if that fails, each alone, so that no request fails with another one."""
        error = self._try_to_answer(jobs)
        if error is None:
            return
        pending = [job for job in jobs if not job.future.done()]
        for job in pending:
            if len(pending) == 1 or isinstance(error, HTTPException):  # there is no such version
                job.future.set_result(Failure(error))
            else:
                self._answer([job])

    def _try_to_answer(self, jobs: list[_Job]) -> BaseException | None:
        """Answer requests together; return why that fails."""
        try:
            with self._searchers.borrow(jobs[0].version) as searcher:
                requests = [request for job in jobs for request in job.requests]
                with limit_filter_time(FILTER_SECONDS):
                    results = iter(searcher.answer(requests, self._metrics.observe_stage) if requests else ())
                if requests:
                    self._metrics.batch_queries.observe(len(requests))
                for job in jobs:
                    job.future.set_result(_finish(job.finish, searcher, [next(results) for _ in job.requests]))
        except BaseException as error:  # the waiting requests raise it; the thread goes on
            if len(jobs) > 1:  # each is tried again, without the arrays of this pass
                drop_frames(error)
            return error
        return None


async def _wait(future: Future[Any]) -> Any:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), ANSWER_SECONDS)
    except TimeoutError:
        raise HTTPException(
            504, f"The answer takes longer than {ANSWER_SECONDS} s. Ask for less, or try again later."
        ) from None


def _finish(finish: Finish[Any], searcher: IndexSearcher, results: Results) -> Any:
    for result in results:
        if isinstance(result, ValueError):
            drop_frames(result)
    return call(partial(finish, searcher, results))
