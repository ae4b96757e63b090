"""Memory, CPU seconds and answers of the search service under load. `tern demo` makes the index that it serves."""

import json
import signal
import statistics
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.pipeline.service_load import measure_services
from tests.helpers.service_process import ServiceProcess, make_photo, run_service, upload_from_many_clients

CLIENTS, SECONDS, IDLE = 64, 60, 500
WORKSPACE = Path(__file__).parents[3] / "runs" / "demo"


def service(folder: Path) -> None:
    """Measure throughput and memory, uploads of large photos, idle connections, the page, and the end after SIGTERM."""
    table = Table("what", "result", "peak GB", "CPU s", title="search service", title_justify="left")
    if not (WORKSPACE / "index" / "CURRENT").is_file():
        Console().print(f"The table `service` needs the index in {WORKSPACE}. Run `tern demo` first.")
        return
    measure_services(folder, WORKSPACE, "demo")
    with run_service("demo", folder / "log", "--set", f"workspace={WORKSPACE}") as running:

        def add(what: str, result: str, cpu_before: float) -> None:
            used = running.cpu_seconds - cpu_before
            table.add_row(what, result, f"{running.peak_memory / 1e9:.2f}", f"{used:.1f}")

        add("start", "ready", 0)
        for what, measure in (
            ("3 uploads of 64 megapixels at once", upload_three),
            (f"{CLIENTS} clients, 20 megapixels, {SECONDS} s", upload_many),
            ("page of 12 hits and its thumbnails, twice", load_page),
            (f"a client beside {IDLE} idle connections", ask_beside_idle_connections),
        ):
            before = running.cpu_seconds
            add(what, measure(running), before)
        half = running.connect(
            b"POST /api/v1/search/photo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\nhalf"
        )
        start = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(timeout=60)
        table.add_row("SIGTERM during an upload", f"ended after {time.monotonic() - start:.1f} s", "", "")
        half.close()
    Console().print(table)


def upload_three(running: ServiceProcess) -> str:
    """Upload one large photo from three clients."""
    start = time.monotonic()
    counts = upload_from_many_clients(running, make_photo(7990, 7990, quality=20), 3, 0.1)
    return f"{format_counts(counts)}; {time.monotonic() - start:.1f} s"


def upload_many(running: ServiceProcess) -> str:
    """Upload photos from many clients, and ask a text query every half second meanwhile."""
    seconds: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.5):
            start = time.monotonic()
            if running.request("GET", "/api/v1/search?q=two+dogs&k=3")[0] == 200:
                seconds.append(time.monotonic() - start)

    thread = threading.Thread(target=ask)
    thread.start()
    counts = upload_from_many_clients(running, make_photo(5472, 3648, quality=85), CLIENTS, SECONDS)
    stop.set()
    thread.join()
    median, maximum = statistics.median(seconds), max(seconds)
    return f"{format_counts(counts)}; text query meanwhile {median:.2f} s, at most {maximum:.2f} s"


def load_page(running: ServiceProcess) -> str:
    """Search, and load the thumbnails of the hits, twice."""
    seconds = []
    for _ in range(2):
        start = time.monotonic()
        answer = json.loads(running.request("GET", "/api/v1/search?q=two+dogs&k=12")[1])
        for hit in answer["hits"]:
            running.request("GET", f"/api/v1/thumbnails/{hit['image_id']}")
        seconds.append(time.monotonic() - start)
    return " and ".join(f"{value:.2f} s" for value in seconds)


def ask_beside_idle_connections(running: ServiceProcess) -> str:
    """Ask a query while many connections say nothing."""
    idle = [running.connect() for _ in range(IDLE)]
    start = time.monotonic()
    status, _ = running.request("GET", "/api/v1/search?q=two+dogs&k=3")
    seconds = time.monotonic() - start
    for connection in idle:
        connection.close()
    return f"status {status} after {seconds:.2f} s"


def format_counts(counts: dict[int, int]) -> str:
    """Format statuses and their numbers."""
    return ", ".join(f"{count:,} x {status}" for status, count in sorted(counts.items()))
