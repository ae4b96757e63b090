"""What holds for every request: hosts, parameters, headers, errors; with searchers that find nothing or fail."""

import asyncio
import errno
import gc
import re
import threading
import weakref
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urljoin

import pytest

testclient = pytest.importorskip("fastapi.testclient")

from pipeline.service import uploads  # noqa: E402 - needs the extra
from pipeline.service.access.guard import list_allowed_hosts  # noqa: E402
from pipeline.service.app import create_app  # noqa: E402
from pipeline.service.limits import BusyError, ByteBudget, WorkQueue  # noqa: E402
from tests.helpers.fake_searchers import FakeReloader, FakeSearcher, wait_until_ready  # noqa: E402


@pytest.fixture
def make_client(tmp_path):
    def make(error=None, hosts=None, **options):
        app = create_app(FakeReloader(FakeSearcher(error), tmp_path), *([] if hosts is None else [hosts]))
        return testclient.TestClient(app, base_url="http://localhost", **options)

    return make


@pytest.mark.parametrize(
    ("host", "options", "status"),
    [
        ("localhost", ("127.0.0.1",), 200),
        ("LOCALHOST:8080", ("127.0.0.1",), 200),
        ("127.0.0.1:8080", ("127.0.0.1",), 200),
        ("[::1]:8080", ("127.0.0.1",), 200),
        ("evil.example", ("127.0.0.1",), 400),
        ("evil.example:8080", ("127.0.0.1",), 400),
        ("localhost.evil.example", ("127.0.0.1",), 400),
        ("localhost@evil.example", ("127.0.0.1",), 400),
        ("192.168.1.5", ("127.0.0.1",), 400),
        ("192.168.1.5:80", ("192.168.1.5",), 200),
        ("[fe80::1]", ("fe80::1",), 200),
        ("192.168.1.5", ("0.0.0.0",), 200),  # an address can be no name that another host gave to this machine
        ("[fe80::1]:80", ("::",), 200),
        ("evil.example", ("0.0.0.0",), 400),
        ("photos.example:443", ("127.0.0.1", ["Photos.Example"]), 200),
        ("other.photos.example", ("127.0.0.1", ["photos.example"]), 400),
        ("", ("0.0.0.0",), 400),
    ],
)
def test_host_is_answered_only_if_it_is_a_name_of_the_service(make_client, host, options, status):
    client = make_client(hosts=list_allowed_hosts(*options))
    for path in ("/api/v1/search?q=dogs", "/", "/healthz", "/api/v1/search/?q=dogs"):
        answer = client.get(path, headers={"Host": host}, follow_redirects=False)
        assert answer.status_code == (404 if status == 200 and path == "/api/v1/search/?q=dogs" else status)
        assert "location" not in answer.headers


def test_every_answer_has_security_headers(make_client):
    client = make_client(OSError(errno.EIO, "Input/output error", "/secret/place"))
    paths = {
        "/": 200,
        "/?q=dogs": 200,
        "/api/v1/search?q=a": 503,
        "/api/v1/search": 422,
        "/no": 404,
        "/static/main.js": 200,
        "/static/no.js": 404,
        "/api/v1/docs": 200,
        "/api/v1/openapi.json": 200,
    }
    for path, status in paths.items():
        answer = client.get(path)
        assert answer.status_code == status
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "/secret/place" not in answer.text


def test_pages_load_nothing_from_another_host_and_have_no_inline_code(make_client):
    client = make_client()
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    for path in ("/", "/api/v1/docs"):
        page = client.get(path).text
        loaded = re.findall(r'<(?:link|script|img)[^>]+(?:href|src)="([^"]*)"', page)
        addresses = [urljoin(f"http://localhost{path}", address) for address in loaded]
        assert "http://localhost/static/style.css" in addresses
        assert all(address.startswith("http://localhost/static/") for address in addresses)
        assert {client.get(address).status_code for address in addresses} == {200}
        assert not re.search(r"<script(?! type=\"module\" src=)|<style|style=| on[a-z]+=|javascript:", page)
    for style in ("style.css", "search.css"):
        assert not re.search(r"url\(|@import", client.get(f"/static/{style}").text)


def test_health_and_head_requests_are_answered(make_client):
    client = make_client()
    assert client.get("/healthz").json() == {"status": "alive", "version": 7}
    assert client.get("/readyz").status_code == 503, "before the first query"
    with client:
        ready = wait_until_ready(client)
    assert ready.json() == {"status": "ready", "version": 7}
    client = make_client()
    for path in ("/", "/api/v1/search?q=dogs", "/healthz"):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
    assert client.head("/api/v1/search/photo").status_code == 405


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/secret"), 503, "No space left on device"),
        (OSError(errno.EMFILE, "Too many open files", "/secret"), 503, "Too many open files"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/secret"), 503, "No such file"),
        (MemoryError(), 503, "memory"),
        (ValueError("The filter is wrong."), 422, "The filter is wrong."),
        (RuntimeError("/secret"), 500, "Its log has the details"),
    ],
)
def test_error_of_a_search_is_json_without_paths(make_client, caplog, error, status, text):
    answer = make_client(error).get("/api/v1/search?q=dogs")
    assert answer.status_code == status
    assert text in answer.json()["detail"]
    assert "/secret" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)
    assert sum("Traceback" in (record.exc_text or "") for record in caplog.records) == (status == 500)


@pytest.mark.parametrize("count", [32, 33, 1000])
def test_number_of_parameters_is_limited(make_client, count):
    query = "&".join(["q=dogs", *(f"p{i}=1" for i in range(count - 1))])
    assert make_client().get(f"/healthz?{query}").status_code == (200 if count <= 32 else 400)


@pytest.mark.parametrize(
    ("origin", "host", "options", "status"),
    [
        (None, "localhost", ("127.0.0.1",), 200),
        ("http://localhost", "localhost", ("127.0.0.1",), 200),
        ("http://LOCALHOST:8080", "localhost:8080", ("127.0.0.1",), 200),
        ("https://photos.example", "photos.example", ("127.0.0.1", ["Photos.Example"]), 200),
        ("https://photos.example", "127.0.0.1:8080", ("127.0.0.1", ["photos.example"]), 200),  # a proxy changed Host
        ("https://photos.example:81", "127.0.0.1:8080", ("127.0.0.1", ["photos.example"]), 403),
        ("http://192.168.1.5:8080", "192.168.1.5:8080", ("0.0.0.0",), 200),
        ("http://6.6.6.6", "192.168.1.5:8080", ("0.0.0.0",), 403),
        ("http://0.0.0.0", "192.168.1.5:8080", ("0.0.0.0",), 403),
        ("http://[fe80::6]", "[fe80::1]:8080", ("::",), 403),
        ("http://192.168.1.5", "192.168.1.5:8080", ("192.168.1.5",), 403),
        ("http://localhost:3000", "localhost:8080", ("127.0.0.1",), 403),
        ("http://localhost", "localhost:8080", ("127.0.0.1",), 403),
        ("http://127.0.0.1", "localhost", ("127.0.0.1",), 403),
        ("http://evil.example", "localhost", ("127.0.0.1",), 403),
        ("http://evil.example", "192.168.1.5", ("0.0.0.0",), 403),
        ("null", "localhost", ("127.0.0.1",), 403),
    ],
)
def test_request_from_a_page_of_another_host_or_port_is_rejected(make_client, origin, host, options, status):
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    client = make_client(hosts=list_allowed_hosts(*options))
    assert client.post("/api/v1/search/photo", content=b"x", headers=headers).status_code == status


def run_upload(messages, headers=(), budget=1 << 30, max_bytes=10):
    """Read an upload of ASGI messages; a number in their place is a pause in seconds."""
    stream = iter(messages)

    async def receive():
        message = next(stream)
        if isinstance(message, float):
            await asyncio.sleep(message)
            message = next(stream)
        return message

    async def read():
        scope = {"type": "http", "headers": list(headers), "method": "POST", "path": "/"}
        request = uploads.Request(scope, receive)
        async with uploads.receive_upload(
            request, ByteBudget(budget), replace(uploads.PHOTO, max_bytes=max_bytes)
        ) as body:
            return body

    return asyncio.run(read())


def piece(body: bytes, more_body: bool = True) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more_body}


def test_upload_is_read_in_any_pieces():
    assert run_upload([piece(b"ab"), piece(b""), piece(b"c", False)]) == b"abc"
    assert run_upload([piece(b"", False)]) == b""


def test_upload_beyond_a_limit_ends_with_its_status(monkeypatch):
    monkeypatch.setattr(uploads, "FREE_BODY_SECONDS", 0.05)
    monkeypatch.setattr(uploads, "BODY_SECONDS", 0.2)
    with pytest.raises(uploads.HTTPException) as caught:
        run_upload([piece(b"x" * 6), piece(b"x" * 6)])
    assert caught.value.status_code == 413
    with pytest.raises(uploads.HTTPException) as caught:  # before anything is read
        run_upload([], [(b"content-length", b"11")])
    assert caught.value.status_code == 413
    with pytest.raises(uploads.HTTPException, match="6 bytes of the photo") as caught:
        run_upload([piece(b"x" * 6), 30.0])
    assert caught.value.status_code == 408
    with pytest.raises(uploads.UploadAbortedError, match="6 bytes"):
        run_upload([piece(b"x" * 6), {"type": "http.disconnect"}])
    with pytest.raises(BusyError):
        run_upload([piece(b"x" * 6), piece(b"x", False)], budget=6)


def test_budget_counts_only_uploads_that_are_being_read():
    budget = ByteBudget(10)
    budget.take(10)
    with pytest.raises(BusyError):
        budget.take(1)
    budget.give_back(10)
    budget.take(10)


def test_failed_call_of_a_queue_is_freed_without_the_garbage_collector():
    class Body:
        """Can be referred to weakly."""

    async def fail(queue):
        body = Body()
        with suppress(ZeroDivisionError):
            await queue.run(lambda body=body: 1 // 0)
        return weakref.ref(body)

    queue = WorkQueue("test", num_threads=1, max_waiting=2)
    gc.collect()
    gc.disable()
    try:
        ref = asyncio.run(fail(queue))
        asyncio.run(queue.run(bool))  # the thread has left the first call
        assert ref() is None
    finally:
        gc.enable()
        queue.close()


def test_queue_refuses_more_calls_than_may_wait_and_recovers():
    async def check():
        queue, release = WorkQueue("test", num_threads=1, max_waiting=2), threading.Event()
        tasks = [asyncio.create_task(queue.run(release.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            queue.check_room()
        with pytest.raises(BusyError):
            await queue.run(release.wait)
        tasks[2].cancel()  # a client that left makes room
        await asyncio.sleep(0.01)
        queue.check_room()
        release.set()
        assert await asyncio.gather(*tasks[:2]) == [True, True]
        assert await queue.run(lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            await queue.run(lambda: 1 // 0)
        queue.check_room()
        queue.close()

    asyncio.run(check())
