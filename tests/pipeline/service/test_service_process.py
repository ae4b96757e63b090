"""The service as a process, under clients that take much, send nothing or leave; smaller than `tests.bench service`."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest

from index.versions import collect_garbage, rollback
from pipeline.origin import read_origin
from pipeline.search.searcher import Searcher
from pipeline.stages.index import IndexSource, publish_full_index
from pipeline.workspace import Workspace
from tests.helpers.hostile_requests import list_hostile_requests
from tests.helpers.service_process import find_children, make_photo, run_service, upload_from_many_clients
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


def test_hostile_requests_get_their_status_and_leave_memory_where_it_was(service):
    requests, size = list_hostile_requests(), len(service.log)

    def send_all() -> dict[str, int]:
        return {name: int(service.exchange(data)[9:12] or 0) for name, (data, _) in requests.items()}

    assert send_all() == {name: status for name, (_, status) in requests.items()}
    for name in ("deep JSON", "range beyond the file", "unknown method", "foreign host", "long line"):
        head, _, body = service.exchange(requests[name][0]).partition(b"\r\n\r\n")
        assert b"application/problem+json" in head, name
        assert json.loads(body)["status"] == requests[name][1], name
        assert b"passwd" not in body
    before = service.memory
    for _ in range(3):
        send_all()
    assert service.memory - before < 48 << 20
    assert "Traceback" not in service.log[size:]


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


def keep_asking(service, stop, results, num_clients, address="/api/v1/search?q=a+dog&k=3"):
    """Start clients that ask again and again on connections that they keep, until `stop`.

    `results` gets (status, body) of each answer, and (0, error) of each request that was sent and got no answer.
    """

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        while not stop.is_set():
            try:
                connection.connect() if connection.sock is None else None
            except OSError:
                return  # refused: the service has ended
            try:
                connection.request("GET", address)
                answer = connection.getresponse()
                results.append((answer.status, answer.read()))
            except (OSError, http.client.HTTPException) as error:
                results.append((0, repr(error)))
                connection.close()

    clients = [threading.Thread(target=ask) for _ in range(num_clients)]
    for client in clients:
        client.start()
    return clients


def test_signal_under_load_loses_no_accepted_request(finished_pipeline, tmp_path):
    with run_service(small_plan(finished_pipeline.plan.workspace.parent), tmp_path / "log") as service:
        stop, results = threading.Event(), []
        clients = keep_asking(service, stop, results, num_clients=16)
        time.sleep(1)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=30) in (0, 143, -signal.SIGTERM)
        for client in clients:
            client.join(30)
        stop.set()
        assert len(results) > 16
        lost = [result for result in results if result[0] != 200]
        # A connection that the operating system had accepted, and the process had not, is reset at once.
        assert all("reset" in error or "RemoteDisconnected" in error for _, error in lost)
        assert len(re.findall(r'"GET /api/v1/search" 200', service.log)) <= len(results) - len(lost)
        assert "Traceback" not in service.log


def test_versions_change_under_load_without_a_failed_or_wrong_answer(finished_pipeline, tmp_path):
    shutil.copytree(finished_pipeline.plan.workspace / "index", tmp_path / "index")
    for name in ("models", "stores", "dataset"):
        (tmp_path / name).symlink_to(finished_pipeline.plan.workspace / name)
    with Searcher(finished_pipeline.plan).index as index:
        source = IndexSource(finished_pipeline.vectors, finished_pipeline.features.dataset, read_origin(index))
    options = ("--set", f"workspace={tmp_path}")
    with run_service(small_plan(finished_pipeline.plan.workspace.parent), tmp_path / "log", *options) as service:
        expected = json.loads(service.request("GET", "/api/v1/search?q=a+dog&k=3")[1])["hits"]
        stop, results = threading.Event(), []
        clients = keep_asking(service, stop, results, num_clients=8)
        for shards in (1, 3):
            config = finished_pipeline.plan.index.model_copy(update={"shards": shards})
            publish_full_index(source, config, Workspace(tmp_path))
            time.sleep(2)
        rollback(tmp_path / "index", 2)
        time.sleep(2)
        report = collect_garbage(tmp_path / "index", keep=1)
        time.sleep(1)
        stop.set()
        for client in clients:
            client.join(60)
        assert {status for status, _ in results} == {200}
        answers = [json.loads(body) for _, body in results]
        assert {answer["version"] for answer in answers} == {1, 2, 3}
        assert answers[-1]["version"] == 2
        assert report.versions == [1]
        ids, scores = ([hit[key] for hit in expected] for key in ("id", "score"))
        for answer in answers:
            assert [hit["id"] for hit in answer["hits"]] == ids
            assert [hit["score"] for hit in answer["hits"]] == pytest.approx(scores, abs=1e-5)


def test_workers_share_the_port_and_are_replaced_and_ended_together(finished_pipeline, tmp_path):
    plan = small_plan(finished_pipeline.plan.workspace.parent)
    with run_service(plan, tmp_path / "log", "--workers", "2", TMPDIR=str(tmp_path)) as service:
        workers = find_children(service.process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        end = time.monotonic() + 60
        while len(now := set(find_children(service.process.pid))) < 2 or workers[0] in now:
            assert time.monotonic() < end, service.log
            with suppress(ConnectionError):  # of the worker that was killed
                assert service.request("GET", "/api/v1/search?q=a+dog&k=1")[0] == 200, "the other worker answers"
            time.sleep(0.2)
        assert service.request("GET", "/api/v1/search?q=a+dog&k=1")[0] == 200
        text = service.request("GET", "/metrics")[1].decode()
        counts = re.findall(r'tern_requests_total\{[^}]*/api/v1/search"[^}]*\} ([\d.]+)', text)
        assert sum(map(float, counts)) > 0, "requests of all workers are counted"
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=30) == 0
        assert find_children(service.process.pid) == []
        assert not list(tmp_path.glob("tern-metrics-*"))
