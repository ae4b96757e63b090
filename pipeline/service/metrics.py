"""Metrics of the search service in the text format of Prometheus, of one process or of all workers together."""

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.06, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)  # bounds of the histograms
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What the service counts and times.

    Args:
        folder: Folder of the files in which the workers of a service keep their values; None: one process, in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._registry = CollectorRegistry()
        if folder is None:
            ProcessCollector(registry=self._registry)
        else:
            MultiProcessCollector(self._registry, str(folder))
        own = self._registry if folder is None else None
        self.requests = Counter(
            "tern_requests", "Requests by route, method and status.", ("route", "method", "status"), registry=own
        )
        self.stage_seconds = Histogram(
            "tern_stage_seconds",
            "Time of the stages of a request: wait, embed, search, explain; total is the whole request.",
            ("stage",),
            buckets=SECONDS,
            registry=own,
        )
        self.batch_queries = Histogram(
            "tern_batch_queries", "Queries that were answered in one pass.", buckets=BATCHES, registry=own
        )
        self.reload_failures = Counter(
            "tern_reload_failures", "Published versions that could not be opened.", registry=own
        )
        self._version = Gauge(
            "tern_served_version", "Number of the served version.", registry=own, multiprocess_mode="livemax"
        )
        self._queue = Gauge(
            "tern_queue_length",
            "Calls that run or wait, by queue.",
            ("queue",),
            registry=own,
            multiprocess_mode="livesum",
        )
        self._lengths: dict[str, Callable[[], int]] = {}

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request and its time; status 0 is a request without an answer."""
        self.requests.labels(route, method, status).inc()
        self.stage_seconds.labels("total").observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Count the time of a stage of a request or of a pass."""
        self.stage_seconds.labels(stage).observe(seconds)

    def add_queue(self, name: str, count: Callable[[], int]) -> None:
        """Add a queue whose length is read at each request for the metrics, and once per second."""
        self._lengths[name] = count

    def update(self, version: int) -> None:
        """Set the gauges; each worker does so once per second, because any of them may be asked for the metrics."""
        self._version.set(version)
        for name, count in self._lengths.items():
            self._queue.labels(name).set(count())

    def render(self) -> tuple[bytes, str]:
        """Return the metrics and their media type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4
