"""Throughput, latency, CPU time and memory of the search service, beside a plain FAISS and FastAPI program."""

import http.client
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.helpers.hostile_requests import list_hostile_requests
from tests.helpers.service_process import REPOSITORY, ServiceProcess, find_free_port, run_service, wait_for_service

CLIENTS = (1, 8, 32, 64)
SECONDS = 10.0
WARM_UP_SECONDS = 2.0
MANY_REQUESTS = 20_000
WORDS = (
    *("dog", "cat", "boat", "child", "woman", "man", "horse", "bicycle"),
    *("street", "beach", "park", "room", "red", "blue", "two", "three"),
)


@dataclass(frozen=True)
class Load:
    """What some clients measured."""

    seconds: np.ndarray
    """(n,) latency of each request"""
    duration: float
    cpu_seconds: float
    num_failed: int

    def format(self, name: str, clients: int) -> list[str]:
        """Return the row of a table."""
        p50, p99 = 1000 * np.percentile(self.seconds, [50, 99])
        count = len(self.seconds)
        return [
            name,
            str(clients),
            f"{count / self.duration:,.0f}",
            f"{p50:.1f}",
            f"{p99:.1f}",
            f"{1000 * self.cpu_seconds / count:.1f}",
            f"{self.num_failed}",
        ]


def iter_queries() -> Iterator[str]:
    """Iterate over different texts without end."""
    for first, second, third, fourth in itertools.cycle(itertools.product(WORDS, repeat=4)):
        yield f"{first}+{second}+with+a+{third}+and+a+{fourth}"


def measure_load(service: ServiceProcess, path: str, clients: int, seconds: float, num_requests: int = 0) -> Load:
    """Ask different text queries from some clients, each on a connection that it keeps.

    Args:
        service: The service.
        path: Address up to the text.
        clients: Number of clients.
        seconds: Duration.
        num_requests: Number of requests after which the load ends earlier; 0: no such number.
    """
    latencies: list[float] = []
    failed: list[int] = []
    queries, lock, stop = iter_queries(), threading.Lock(), threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        while not stop.is_set():
            with lock:
                text = next(queries)
            start = time.perf_counter()
            connection.request("GET", path + text)
            answer = connection.getresponse()
            content = answer.read()
            latencies.append(time.perf_counter() - start)
            if answer.status != 200 or not json.loads(content):
                failed.append(answer.status)
            if num_requests and len(latencies) >= num_requests:
                stop.set()
        connection.close()

    cpu, start = service.cpu_seconds, time.perf_counter()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    duration = time.perf_counter() - start
    return Load(np.array(latencies), duration, service.cpu_seconds - cpu, len(failed))


def measure_services(folder: Path, workspace: Path, plan: str) -> None:
    """Print the throughput of the service and of the plain program, and the memory of the service."""
    table = Table(
        *("service", "clients", "requests/s", "p50 ms", "p99 ms", "CPU ms", "failed"),
        title="typed queries, 10 hits, different texts",
        title_justify="left",
    )
    memory = []
    with run_service(plan, folder / "log", "--set", f"workspace={workspace}") as service:
        memory.append(("ready", service.memory))
        for name, options in (("tern serve", ""), ("tern serve, explain=false", "explain=false&")):
            path = f"/api/v1/search?{options}q="
            measure_load(service, path, 8, WARM_UP_SECONDS)
            for clients in CLIENTS:
                table.add_row(*measure_load(service, path, clients, SECONDS).format(name, clients))
        memory.append(("after these", service.memory))
        for when in ("with the first photo, which loads the detector", "again"):
            for data, _ in list_hostile_requests().values():
                service.exchange(data)
            memory.append((f"after {len(list_hostile_requests())} hostile requests, {when}", service.memory))
        for number in (1, 2):
            count = len(measure_load(service, "/api/v1/search?explain=false&q=", 32, 600, MANY_REQUESTS // 2).seconds)
            memory.append((f"after {count:,} more requests, part {number}", service.memory))
    with run_plain_service(folder / "plain-log", workspace, plan) as service:
        measure_load(service, "/search?q=", 8, WARM_UP_SECONDS)
        for clients in CLIENTS:
            table.add_row(*measure_load(service, "/search?q=", clients, SECONDS).format("FAISS and FastAPI", clients))
        memory.append(("FAISS and FastAPI, after its requests", service.memory))
    Console().print(table)
    second = Table("memory", "MB", title_justify="left")
    for name, num_bytes in memory:
        second.add_row(name, f"{num_bytes / 1e6:,.0f}")
    Console().print(second)


@contextmanager
def run_plain_service(log_file: Path, workspace: Path, plan: str) -> Iterator[ServiceProcess]:
    """Start the plain program on a free port, and kill it at the end."""
    port = find_free_port()
    command = [sys.executable, "-m", "tests.bench.pipeline.plain_service", plan, "--workspace", str(workspace)]
    with open(log_file, "w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], cwd=REPOSITORY, stdout=log, stderr=log)
    with wait_for_service(ServiceProcess(process, port, log_file), "/search?q=a+dog") as service:
        yield service
