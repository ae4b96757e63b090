"""`Backend`: what all routes of the service share. Its queues bound the work that runs and waits."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from index.search import HotReloader
from pipeline.search.index_searcher import IndexSearcher
from pipeline.search.query import Query, SearchRequest, VectorPart, make_text_query
from pipeline.service.api.dispatcher import Dispatcher
from pipeline.service.api.searchers import VersionedSearchers
from pipeline.service.limits import (
    MAX_BUFFERED_BYTES,
    MAX_WAITING_PHOTOS,
    MAX_WAITING_QUERIES,
    ByteBudget,
    WorkQueue,
)
from pipeline.service.metrics import Metrics

log = logging.getLogger(__name__)
T = TypeVar("T")
FOLLOW_SECONDS = 1.0  # between two looks at the published version
MAX_BATCH = 64  # queries of one pass


class Backend:
    """The searchers of an index, and the queues of the work of the service.

    Searches, photos, files and bodies have threads of their own, so that none of them stops the others. Threads of one
    kind are few, because the libraries use all cores by themselves; a detector takes the memory of one photo at a time.

    Args:
        reloader: Provides the searcher of the published version, or of a version that a request names.
        metrics: Metrics of the service.
    """

    def __init__(self, reloader: HotReloader[IndexSearcher], metrics: Metrics) -> None:
        self.reloader, self.metrics = reloader, metrics
        self.searchers = VersionedSearchers(reloader)
        self.queries = Dispatcher("query", self.searchers, metrics, 2, MAX_WAITING_QUERIES, MAX_BATCH)
        self.photos = Dispatcher("photo", self.searchers, metrics, 1, MAX_WAITING_PHOTOS, 1)
        self.files = WorkQueue("file", 2, max_waiting=128)
        self.bodies = WorkQueue("body", 1, max_waiting=64)
        self.uploads = ByteBudget(MAX_BUFFERED_BYTES)
        self.is_warm = False
        """Whether one query was answered"""
        metrics.add_queue("file", lambda: self.files.num_calls)
        metrics.add_queue("body", lambda: self.bodies.num_calls)

    async def read(self, version: str, function: Callable[[IndexSearcher], T]) -> T:
        """Call a function with the searcher of a version, in a thread for files."""

        def call() -> T:
            with self.searchers.borrow(version) as searcher:
                return function(searcher)

        return await self.files.run(call)

    async def follow(self) -> None:
        """Answer a first query, then open new versions, also while nobody searches, so that no request waits."""
        queue, last_error = WorkQueue("reload", 1, max_waiting=0), self.reloader.last_error
        while True:
            try:
                await queue.run(self._warm_up if not self.is_warm else self._reload)
            except Exception as error:  # the next round tries again
                log.error("The first query failed: %s", error)
            error_now = self.reloader.last_error
            if error_now is not None and error_now != last_error:
                self.metrics.reload_failures.inc()
            last_error = error_now
            self.update_metrics()
            await asyncio.sleep(FOLLOW_SECONDS)

    def update_metrics(self) -> None:
        """Set the gauges of the metrics."""
        self.metrics.update(self.reloader.served.index.version)

    def close(self) -> None:
        """Drop the work that waits, and close the searchers after their last request."""
        for queue in (self.queries, self.photos, self.files, self.bodies):
            queue.close()
        self.reloader.close()

    def _warm_up(self) -> None:
        with self.reloader.borrow() as searcher:
            result = searcher.answer([SearchRequest(make_text_query("two people on a street"), 1)])[0]
            if isinstance(result, ValueError):  # a model of another language knows none of these words
                kind = searcher.index.kinds[0]
                dim = searcher.index.collection(kind).manifest.dim
                query = Query((VectorPart(np.ones(dim, np.float32)),), "image" if kind == "image" else "caption")
                searcher.answer([SearchRequest(query, 1)])
        self.is_warm = True

    def _reload(self) -> None:
        with self.reloader.borrow():
            pass
