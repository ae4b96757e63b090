"""The search service as a process, and clients that behave badly; used by tests and by `tests.bench service`."""

import http.client
import io
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 120


@dataclass(frozen=True)
class ServiceProcess:
    """A running service."""

    process: subprocess.Popen
    port: int
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def peak_memory(self) -> int:
        """Maximum resident memory so far, in bytes."""
        return self._read_status("VmHWM")

    @property
    def memory(self) -> int:
        """Resident memory now, in bytes."""
        return self._read_status("VmRSS")

    def _read_status(self, key: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(key))

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def num_open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def connect(self, data: bytes = b"", timeout: float = 60) -> socket.socket:
        """Open a connection and send bytes."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout)
        client.sendall(data)
        return client

    def exchange(self, data: bytes) -> bytes:
        """Send bytes and return everything that the service answers until it closes the connection."""
        with self.connect() as client:
            with suppress(OSError):  # the service may stop reading before the end
                client.sendall(data)
            answer = b""
            with suppress(OSError):
                while part := client.recv(1 << 16):
                    answer += part
        return answer

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Send one request on a new connection and return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def find_children(process_id: int) -> list[int]:
    """Return the ids of the child processes that have not ended."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == process_id and fields[0] != "Z":
                children.append(int(stat.parent.name))
    return sorted(children)


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def run_service(
    plan: Path | str, log_file: Path, *options: str, max_open_files: int = 1024, **environment: str
) -> Iterator[ServiceProcess]:
    """Start `tern serve` on a free port and kill it at the end.

    Args:
        plan: Plan file or name.
        log_file: File for the output of the service.
        options: More options of the command.
        max_open_files: Soft limit of open files of the service.
        environment: More environment variables of the service.
    """
    port = find_free_port()
    command = [sys.executable, "-m", "pipeline.cli", "serve", "--plan", str(plan), "--port", str(port), *options]
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with open(log_file, "w") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (max_open_files, hard_limit)),
        )
    with wait_for_service(ServiceProcess(process, port, log_file), "/readyz") as service:
        yield service


@contextmanager
def wait_for_service(service: ServiceProcess, path: str) -> Iterator[ServiceProcess]:
    """Wait until a service answers `path` with status 200, and kill it at the end."""
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            assert service.process.poll() is None, service.log
            assert time.monotonic() < end, f"the service does not answer: {service.log}"
            with suppress(OSError):
                if service.request("GET", path)[0] == 200:
                    break
            time.sleep(0.2)
        yield service
    finally:
        service.process.kill()
        service.process.wait()


def make_photo(width: int, height: int, format: str = "JPEG", seed: int = 0, **options: object) -> bytes:
    """Encode a photo with smooth texture."""
    small = np.random.default_rng(seed).integers(0, 255, (height // 40, width // 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).save(buffer, format, **options)
    return buffer.getvalue()


def upload_from_many_clients(service: ServiceProcess, photo: bytes, num_clients: int, seconds: float) -> Counter[int]:
    """Upload a photo again and again from many clients, and count the statuses; status 0 is a broken connection."""
    statuses: Counter[int] = Counter()
    end = time.monotonic() + seconds

    def upload() -> None:
        while time.monotonic() < end:
            try:
                status, body = service.request("POST", "/api/v1/search/photo?k=3", photo)
                assert json.loads(body)
            except (OSError, http.client.HTTPException, ValueError):
                status = 0
            statuses[status] += 1
            if status != 200:
                time.sleep(0.5)  # a client that is asked to try again later

    clients = [Thread(target=upload) for _ in range(num_clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return statuses
