"""Connections of the search service: bounded in number, in time and in what a client may send.

uvicorn bounds none of these: it waits for the first request of a connection without end, and answers all clients with
503 when idle connections reach `limit_concurrency`.
"""

import asyncio
import resource
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.service.limits import (
    DESCRIPTORS_PER_CONNECTION,
    DISCARD_SECONDS,
    DRAIN_SECONDS,
    FREE_CHUNKS,
    HEAD_SECONDS,
    MAX_CONNECTIONS,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    MIN_CHUNK_BYTES,
    REQUEST_SECONDS,
)
from pipeline.service.problems import MEDIA_TYPE, describe_status, make_headers, make_problem

CLOSE_HEADER = (b"connection", b"close")
MAX_DISCARDED_BYTES = 64 << 20  # of a request that was rejected


class BoundedConnection(h11.Connection):
    """h11's parser with bounds on the request line, the headers and the number of pieces of a body."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.status = HTTPStatus.BAD_REQUEST
        """Status of the answer to a request that was rejected here"""
        self._num_pieces = self._num_bytes = 0

    def next_event(self) -> Any:
        """Parse the next event of the request, and check it against the limits.

        Raises:
            h11.RemoteProtocolError: The request is malformed or exceeds a limit.
        """
        state = self.their_state
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:  # h11's bound on anything
                self.status = self._classify(state)
            raise
        if isinstance(event, h11.Request):
            self._num_pieces = self._num_bytes = 0
            self.status = _check_head(event)
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                # A proxy in front may end the body elsewhere, and take its rest for another request.
                raise h11.RemoteProtocolError("The body has a length and chunks. Send one of them.")
        elif isinstance(event, h11.Data):
            self._num_pieces += 1
            self._num_bytes += len(event.data)
            # Tiny pieces cost as much as large ones.
            if self._num_pieces > FREE_CHUNKS and self._num_bytes < MIN_CHUNK_BYTES * self._num_pieces:
                raise h11.RemoteProtocolError("The pieces of the body are too small. Send larger chunks.")
        if self.status != HTTPStatus.BAD_REQUEST:
            raise h11.RemoteProtocolError("The head of the request is too large.")
        return event

    def _classify(self, state: Any) -> HTTPStatus:
        """Return the status for a line, or headers, without an end."""
        if state is not h11.IDLE:
            return HTTPStatus.BAD_REQUEST
        has_line = b"\n" in self.trailing_data[0]
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if has_line else HTTPStatus.REQUEST_URI_TOO_LONG


def _check_head(request: h11.Request) -> HTTPStatus:
    """Return 414 or 431 if a part of the head is too large, else 400, the status of all later errors."""
    if len(request.target) > MAX_TARGET_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG
    num_bytes = sum(len(name) + len(value) for name, value in request.headers)
    if len(request.headers) > MAX_HEADERS or num_bytes > MAX_HEAD_BYTES:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return HTTPStatus.BAD_REQUEST


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP protocol for one connection, with deadlines and a bound on the number of connections.

    At the bound, the connection whose client has been silent for longest is closed for a new one. A connection whose
    request is being answered stays; if all are, the new one gets status 503.
    """

    conn: BoundedConnection

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = BoundedConnection()
        self._max_connections = _compute_max_connections()
        self._last_byte = self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None
        self._is_ending = False  # the service ends: the next answer is the last one
        self._num_discarded: int | None = None  # bytes after a request that was rejected; None: none was

    @property
    def waits_for_client(self) -> bool:
        """Whether the next step is the client's: to send the rest of a request, or to read its answer."""
        cycle = self.cycle
        is_answered = cycle is None or cycle.response_complete or self._num_discarded is not None
        return is_answered or cycle.more_body or self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request, or close a connection if there are too many."""
        super().connection_made(transport)
        self._set_deadline(HEAD_SECONDS)
        if len(self.connections) <= self._max_connections:
            return
        others = [other for other in self.connections if isinstance(other, BoundedProtocol) and other is not self]
        if silent := [other for other in others if other.waits_for_client]:
            min(silent, key=lambda other: other._last_byte).drop()
        else:
            self._reject(HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline."""
        self._set_deadline(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent, or discard it after a request that was rejected."""
        if self._num_discarded is not None:
            self._num_discarded += len(data)
            if self._num_discarded > MAX_DISCARDED_BYTES:
                self.drop()
            return
        self._last_byte = self.loop.time()
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle the parsed events; the head of a request starts the deadline of its answer."""
        cycle = self.cycle
        super().handle_events()
        if self.cycle is not cycle and not self.transport.is_closing():
            self._set_deadline(REQUEST_SECONDS)
            if self._is_ending:
                self._make_last_answer()

    def on_response_complete(self) -> None:
        """Start the deadline of the next request."""
        self._last_byte = self.loop.time()
        self._set_deadline(HEAD_SECONDS)
        super().on_response_complete()

    def shutdown(self) -> None:
        """End the connection; a request that is being answered, or is on its way, gets its answer first.

        A client may have sent a request on an idle connection, or a part of one, that this process has not read yet.
        """
        self._is_ending = True
        if self.cycle is not None and not self.cycle.response_complete:
            self._make_last_answer()
        self.loop.call_later(DRAIN_SECONDS, self._drop_if_waiting)

    def _drop_if_waiting(self) -> None:
        if self.waits_for_client:
            self.drop()

    def _make_last_answer(self) -> None:
        """Close the connection after the answer to the current request, and announce it."""
        self.cycle.keep_alive = False
        self.headers.append(CLOSE_HEADER)  # of the request, as if the client had asked for it

    def send_400_response(self, msg: str) -> None:
        """Answer a request that the parser rejected, with the status of the reason."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self._reject(self.conn.status)
        else:
            self.drop()

    def drop(self) -> None:
        """Close the connection at once."""
        self.connections.discard(self)
        self.transport.abort()

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.drop)

    def _reject(self, status: HTTPStatus) -> None:
        """Write an answer without h11, whose state does not allow one here, and end the connection.

        It is read for some seconds more: a client that still sends would get a reset in place of the answer (RFC 9112,
        section 9.6).
        """
        content = make_problem(status, describe_status(status)).model_dump_json(exclude_none=True)
        head = [
            f"HTTP/1.1 {status} {status.phrase}",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(content)}",
            "connection: close",
            "x-content-type-options: nosniff",
            *(f"{name}: {value}" for name, value in make_headers(status).items()),
        ]
        self._num_discarded = 0
        self._unset_keepalive_if_required()
        self._set_deadline(DISCARD_SECONDS)
        self.transport.write("\r\n".join([*head, "", ""]).encode() + content.encode())
        self.transport.write_eof()
        self.transport.resume_reading()
        if self.cycle is not None and not self.cycle.response_complete:  # its application waits for the rest
            self.cycle.disconnected = True
            self.cycle.message_event.set()


def _compute_max_connections() -> int:
    """Return the maximum number of connections: `MAX_CONNECTIONS`, or fewer under a low limit of open files."""
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft_limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, soft_limit // DESCRIPTORS_PER_CONNECTION))
