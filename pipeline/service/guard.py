"""What holds for every request of the search service: hosts, number of parameters, security headers, errors, log."""

import asyncio
import errno
import ipaddress
import json
import logging
import time
from collections import Counter
from collections.abc import Collection

from fastapi import HTTPException, Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.text import suggest_name
from pipeline.service.limits import DISCARD_SECONDS, MAX_PARAMETERS, RETRY_SECONDS, BusyError
from pipeline.service.uploads import UploadAbortedError

log = logging.getLogger(__name__)
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})  # of --host: the service listens on all addresses of the machine
MAX_LOGGED_PATH = 200  # characters
SECURITY_HEADERS = [
    # The pages have their style inside, no script, and load nothing from another host.
    (
        b"content-security-policy",
        b"default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


async def check_parameters(request: Request) -> None:
    """Check the parameters of the URL: a misspelled or a second one would be ignored silently.

    Raises:
        HTTPException: 422 for a parameter that the route does not have, or that occurs twice.
    """
    route, counts = request.scope["route"], Counter(name for name, _ in request.query_params.multi_items())
    known = [parameter.alias for parameter in route.dependant.query_params] if isinstance(route, APIRoute) else []
    for name, count in counts.items() if known else ():  # a route without parameters ignores all
        if name not in known:
            raise HTTPException(
                422, f"The parameter {name[:60]!r} is unknown; {suggest_name(name[:60], known, 'parameters are')}."
            )
        if count > 1:
            raise HTTPException(422, f"The parameter {name!r} occurs {count} times. Send it once.")


def list_allowed_hosts(host: str, others: Collection[str] = ()) -> frozenset[str]:
    """List the hosts that requests may name.

    Args:
        host: Address that the service listens on.
        others: More names, such as that of a proxy.

    Returns:
        Names in lower case, without ports. The address of all interfaces stays in the list, and stands for every IP
        address: a web page whose name was bound to this machine later (DNS rebinding) can only send that name.
    """
    names = {f"[{host}]" if ":" in host else host} if host not in ANY_ADDRESS else {"0.0.0.0"}
    return LOOPBACK_HOSTS | {name.lower() for name in {*names, *others}}


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: The application.
        allowed_hosts: What `list_allowed_hosts` returns.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        self._app, self._allowed_hosts = app, allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, exchange = time.monotonic(), _Exchange(scope, receive, send)
        try:
            if (problem := self._find_problem(scope)) is not None:
                raise problem
            # A HEAD request is a GET request without a body (RFC 9110, section 9.3.2).
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            await self._app({**scope, "method": method}, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the service ends, and does not wait for this request any longer
            await exchange.fail(503, "The service is ending. Try again later.")
        except UploadAbortedError as error:
            await exchange.fail(400, str(error))
            log.info("%s left %s: %s", _get_client(scope), _get_path(scope), error)
            return
        except Exception as error:  # any error of a request is answered, and logged with its status
            await exchange.fail(*_explain(error))
        log.info(
            '%s "%s %s" %s %.0f ms',
            _get_client(scope),
            scope["method"],
            _get_path(scope),
            exchange.status or "no answer",
            1000 * (time.monotonic() - start),
        )

    def _find_problem(self, scope: Scope) -> HTTPException | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_allowed(host):
            return HTTPException(400, f"The service does not answer for the host {host[:100]!r}. See --allowed-host.")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if scope["method"] == "POST" and origin and not self._is_allowed(origin.partition("://")[2]):
            return HTTPException(403, "The service does not accept uploads from pages of other hosts.")
        if scope["query_string"].count(b"&") >= MAX_PARAMETERS:
            return HTTPException(400, f"The URL has more than {MAX_PARAMETERS} parameters. Send fewer.")
        return None

    def _is_allowed(self, host: str) -> bool:
        name = host.lower()
        if not name.endswith("]"):  # an IPv6 address without a port
            name = name.rpartition(":")[0] or name
        return name in self._allowed_hosts or ("0.0.0.0" in self._allowed_hosts and _is_address(name))


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self._receive, self._send, self._is_head = receive, send, scope["method"] == "HEAD"
        # A client that sent `Expect` waits with its body for an answer.
        has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        self._is_sending, self.status = has_body and b"expect" not in headers, 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_sending = self._is_sending and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = {name for name, _ in message["headers"]}
            more = [(name, value) for name, value in SECURITY_HEADERS if name not in names]
            message = {**message, "headers": [*message["headers"], *more]}
        elif self._is_head:
            message = {**message, "body": b""}
        if message["type"] == "http.response.body" and not message.get("more_body", False) and self._is_sending:
            await self._send({**message, "more_body": True})
            await self._discard_rest()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def fail(self, status: int, detail: str) -> None:
        """Answer with an error, unless the answer has begun."""
        if self.status:
            return
        content = json.dumps({"detail": detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        if status == 503:
            headers.append((b"retry-after", str(RETRY_SECONDS).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": content, "more_body": False})

    async def _discard_rest(self) -> None:
        """Read the rest of the body, because a client that still sends would get a reset (RFC 9112, section 9.6)."""
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while self._is_sending:
                    await self.receive()
        except TimeoutError:
            pass


def _explain(error: Exception) -> tuple[int, str]:
    """Return the status and the text of an error. Paths of this machine are in the log only."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, BusyError):
        return 503, f"The service is busy. Try again in {RETRY_SECONDS} seconds."
    if isinstance(error, MemoryError):
        log.error("Out of memory")
        return 503, "The service has too little memory for this request now."
    if isinstance(error, OSError):
        log.error("%s: %s", error.strerror or type(error).__name__, error.filename or error)
        reason = errno.errorcode.get(error.errno or 0, "unknown")
        return 503, f"A file or a resource of the machine cannot be used now ({error.strerror or reason})."
    log.error("Internal error", exc_info=error)
    return 500, "The service has an internal error. Its log has the details."


def _get_client(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else "-"


def _get_path(scope: Scope) -> str:
    """Return the path without the query, which is personal and can be long."""
    return str(scope["path"])[:MAX_LOGGED_PATH]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
