"""Bounds on heads, pieces of bodies and log lines, each on its own."""

import logging

import pytest

h11 = pytest.importorskip("h11")
pytest.importorskip("uvicorn")

from pipeline.service import logs  # noqa: E402 - needs the extra
from pipeline.service.connections import BoundedConnection  # noqa: E402

HEAD = b"POST /api/v1/search/photo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def parse(data: bytes) -> int:
    """Return the status of the answer to a request that the parser rejects; 0 if it accepts the data."""
    connection = BoundedConnection()
    connection.receive_data(data)
    try:
        while connection.next_event() not in (h11.NEED_DATA, h11.PAUSED):
            pass
    except h11.RemoteProtocolError:
        return int(connection.status)
    return 0


def head(target: str = "/", *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head("/?q=" + "x" * 7_900), 0),
        (head("/?q=" + "x" * 8_000), 414),
        (head("/?q=" + "x" * 60_000), 414),
        (b"GET /" + b"x" * 16_001, 414),  # a request line without an end
        (head("/", *["a: b"] * 99), 0),
        (head("/", *["a: b"] * 100), 431),
        (head("/", "a: " + "x" * 15_000), 0),
        (head("/", "a: " + "x" * 70_000), 431),
        (head("/", *[f"a{i}: " + "x" * 900 for i in range(20)]), 431),
        (head("/", "a: " + "x" * 17_000)[:-4], 431),  # a header without an end
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # without a host
        (HEAD + b"1\r\nx\r\n" * 1_000, 0),
        (HEAD + b"1\r\nx\r\n" * 1_001, 400),
        (HEAD + b"1;" + b"e" * 20_000, 400),
        (HEAD + b"1;e\r\nx\r\n" * 2_000, 400),
        (HEAD + (b"400\r\n" + b"x" * 1_024 + b"\r\n") * 2_000, 0),
    ],
)
def test_request_beyond_a_limit_gets_its_status(data, status):
    assert parse(data) == status


def test_pieces_are_counted_per_request():
    connection = BoundedConnection()
    for _ in range(3):
        connection.receive_data(HEAD + b"1\r\nx\r\n" * 900 + b"0\r\n\r\n")
        while not isinstance(connection.next_event(), h11.EndOfMessage):
            pass
        connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()
        assert connection.their_state is connection.our_state is h11.IDLE, "ready for the next request"


@pytest.fixture
def written(monkeypatch):
    """A logger whose lines are collected, and a clock."""
    lines: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: clock[0])

    class Collector(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    handler = Collector()
    handler.addFilter(logs.RepeatFilter())
    handler.setFormatter(logs.LineFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("service")
    logger.addHandler(handler)
    return logger, lines, clock


def test_repeated_lines_are_counted_instead_of_written(written):
    logger, lines, clock = written
    for number in range(20_000):
        logger.info("connection %d failed", number)
    logger.warning("another line")
    assert len(lines) == logs.MAX_LINES + 1
    clock[0] = logs.WINDOW_SECONDS
    logger.info("connection %d failed", 0)
    assert lines[-1] == "INFO connection 0 failed (19,800 lines of this kind were not written)"
    logger.info("connection %d failed", 1)
    assert lines[-1] == "INFO connection 1 failed"


def test_repeated_tracebacks_are_few(written):
    logger, lines, _ = written
    for _ in range(1000):
        try:
            raise OSError(24, "Too many open files")
        except OSError as error:
            logger.error("accept failed", exc_info=error)
    assert len(lines) == logs.MAX_TRACEBACKS
    assert "Traceback" in lines[0]


def test_log_shows_control_characters_of_a_path(written):
    logger, lines, _ = written
    logger.info("GET %s", "/a\n2026 INFO forged \x1b[2J\u202e")
    assert lines == ["INFO GET /a\\n2026 INFO forged \\x1b[2J\\u202e"]
