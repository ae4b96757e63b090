"""The service as a process, under clients that take much, send nothing or leave; smaller than `tests.bench service`."""

import re
import signal
import socket
import time
from contextlib import suppress

import pytest

from tests.helpers.service_process import make_photo, run_service, upload_from_many_clients
from tests.helpers.small_plan import small_plan

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.slow

UPLOAD = b"POST /api/v1/search/photo HTTP/1.1\r\nHost: localhost\r\n"
NUM_SILENT = 300  # more than the connections and the open files of the service


@pytest.fixture(scope="module")
def service(finished_pipeline, tmp_path_factory):
    """A service with few open files and no temporary folder."""
    plan = small_plan(finished_pipeline.plan.workspace.parent)
    log = tmp_path_factory.mktemp("service") / "log"
    with run_service(plan, log, max_open_files=256, TMPDIR="/nonexistent") as running:
        yield running


def test_uploads_of_many_clients_are_answered_within_bounded_memory(service, finished_pipeline):
    photo = finished_pipeline.features.dataset.images[0].path.read_bytes()
    assert service.request("POST", "/api/v1/search/photo?k=3", photo)[0] == 200, "needs no temporary folder"
    before = service.peak_memory
    large = make_photo(7990, 7990, quality=20)
    assert set(upload_from_many_clients(service, large, 3, 0.1)) <= {200, 503}
    statuses = upload_from_many_clients(service, make_photo(5472, 3648, quality=85), num_clients=24, seconds=3)
    assert set(statuses) <= {200, 503}
    assert statuses[200] > 0
    # All pixels of the large photo take 64 MP x 3 bytes, and 36 bytes per pixel in the detector.
    assert service.peak_memory - before < 500 << 20
    answer = service.request("POST", "/api/v1/search/photo", make_photo(6000, 4100, "PNG"))
    assert (answer[0], b"more than 24000000 pixels" in answer[1]) == (422, True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /api/v1/search?q=",
        UPLOAD + b"Content-Length: 1000000\r\n\r\nhalf",
        UPLOAD + b"Expect: 100-continue\r\n",
    ],
    ids=["nothing", "half a request line", "half a body", "half a head"],
)
def test_silent_connections_do_not_stop_another_client(service, data):
    size = len(service.log)
    silent = [service.connect(data) for _ in range(NUM_SILENT)]
    assert service.request("GET", "/api/v1/search?q=a+dog&k=1")[0] == 200
    assert service.num_open_files < 256
    assert len(service.log) - size < 100_000
    for connection in silent:
        connection.close()


def test_connection_without_a_request_is_closed(service):
    with service.connect() as silent, service.connect(b"GET /") as half:
        assert (silent.recv(1), half.recv(1)) == (b"", b"")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (
            b"GET /api/v1/search?q=dogs"
            + b"".join(b"&p%d" % i for i in range(15_000))
            + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            414,
        ),
        (UPLOAD + b"a: b\r\n" * 3_000 + b"\r\n", 431),
        (UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n", 400),
        (UPLOAD + b"Content-Length: 60000000\r\nConnection: close\r\n\r\n" + bytes(40_000_000), 413),
    ],
    ids=["parameters", "headers", "one-byte chunks", "too large"],
)
def test_request_beyond_a_limit_is_answered_while_it_is_sent(service, data, status):
    cpu_seconds = service.cpu_seconds
    assert service.exchange(data).startswith(b"HTTP/1.1 %d " % status)
    assert service.cpu_seconds - cpu_seconds < 2
    assert service.request("GET", "/healthz")[0] == 200


def test_broken_off_uploads_write_one_line_each(service):
    size = len(service.log)
    for _ in range(20):
        with service.connect(UPLOAD + b"Content-Length: 1000000\r\n\r\n" + bytes(1000)):
            pass
    time.sleep(1)
    lines = [line for line in service.log[size:].splitlines() if "/healthz" not in line]  # of the start of the service
    assert len(lines) <= 20  # fewer if other tests wrote many lines of this kind just before
    assert all(
        re.search(r"127\.0\.0\.1 left /api/v1/search/photo: The upload ended after [\d,]+ bytes", line)
        for line in lines
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_service_whatever_clients_do(finished_pipeline, tmp_path, number):
    plan = small_plan(finished_pipeline.plan.workspace.parent)
    with run_service(plan, tmp_path / "log") as service:
        clients = [
            service.connect(data)
            for data in (b"", b"GET /", UPLOAD + b"Content-Length: 99\r\n\r\nhalf", b"GET /healthz HTTP/1.1\r\n")
        ]
        slow = service.connect(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n")
        photo = make_photo(400, 300)  # arrives as a whole before the signal
        busy = [service.connect(UPLOAD + b"Content-Length: %d\r\n\r\n" % len(photo) + photo) for _ in range(2)]
        time.sleep(0.3)
        service.process.send_signal(number)
        with suppress(OSError):
            slow.sendall(b"1\r\nx\r\n")
        assert service.process.wait(timeout=60) in (0, 143, -signal.SIGTERM)
        assert "Traceback" not in service.log
        assert b"HTTP/1.1 200" in busy[0].recv(100), "a request that is being answered gets its answer"
        for client in [*clients, slow, *busy]:
            client.close()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", service.port), 5):
            pass
