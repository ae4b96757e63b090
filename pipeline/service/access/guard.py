"""What holds for every request of the search service: hosts, number of parameters, security headers, errors, log."""

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress

from fastapi import HTTPException, Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.text import suggest_name
from pipeline.service.access.bearer_tokens import BearerTokens
from pipeline.service.access.security_headers import SECURITY_HEADERS
from pipeline.service.api.answer_body import Problem
from pipeline.service.limits import DISCARD_SECONDS, MAX_PARAMETERS
from pipeline.service.metrics import Metrics
from pipeline.service.problems import MEDIA_TYPE, describe_status, explain_error, make_headers, make_problem
from pipeline.service.uploads import UploadAbortedError

log = logging.getLogger(__name__)
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
METHODS = frozenset({"GET", "HEAD", "POST"})
# Probes have no token, and the search page asks its user for one; both contain nothing of the images.
PUBLIC_PATHS = frozenset({"/", "/healthz", "/readyz"})
PUBLIC_FOLDER = "/static/"
PAGE_PATHS = frozenset({"/api/v1/docs"})  # of which a browser asks for a password
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})  # of --host: the service listens on all addresses of the machine
MAX_LOGGED_PATH = 200  # characters


async def check_parameters(request: Request) -> None:
    """Check the parameters of the URL: a misspelled or a second one would be ignored silently.

    Raises:
        HTTPException: 422 for a parameter that the route does not have, or that occurs twice.
    """
    route, counts = request.scope["route"], Counter(name for name, _ in request.query_params.multi_items())
    dependants = [route.dependant, *route.dependant.dependencies] if isinstance(route, APIRoute) else []
    known = [parameter.alias for dependant in dependants for parameter in dependant.query_params]
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
        tokens: Tokens of which each request must have one, except for health; None needs none.
        metrics: Metrics of the service.
    """

    def __init__(
        self, app: ASGIApp, allowed_hosts: frozenset[str], tokens: BearerTokens | None, metrics: Metrics
    ) -> None:
        self._app, self._allowed_hosts, self._tokens, self._metrics = app, allowed_hosts, tokens, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, exchange = time.monotonic(), _Exchange(scope, receive, send)
        # A HEAD request is a GET request without a body (RFC 9110, section 9.3.2).
        inner = {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        try:
            self._check(scope)
            await self._app(inner, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the service ends, and does not wait for this request any longer
            await exchange.fail(make_problem(503, "The service is ending. Try again later."))
        except UploadAbortedError as error:
            await exchange.fail(make_problem(400, str(error)))
            log.info("%s left %s: %s", _get_client(scope), _get_path(scope), error)
            return
        except Exception as error:  # any error of a request is answered, and logged with its status
            await exchange.fail(explain_error(error), _get_challenge(scope) if _is_denied(error) else "")
        seconds = time.monotonic() - start
        self._metrics.count_request(_get_route(inner), _get_method(scope), exchange.status, seconds)
        log.info(
            '%s "%s %s" %s %.0f ms',
            _get_client(scope),
            scope["method"],
            _get_path(scope),
            exchange.status or "no answer",
            1000 * seconds,
        )

    def _check(self, scope: Scope) -> None:
        """Raise HTTPException if the request is not for this service, from another page, or has no token."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_allowed(host):
            raise HTTPException(400, f"The service does not answer for the host {host[:100]!r}. See --allowed-host.")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not self._is_own_page(origin, host):
            raise HTTPException(403, "The service does not answer pages of other hosts. See --allowed-host.")
        if self._tokens is not None and not _is_public(scope["path"]):
            authorization = headers.get(b"authorization", b"").decode("latin-1")
            if not self._tokens.accept(authorization):
                raise HTTPException(
                    401, "The request has no valid token. Send the header `Authorization: Bearer TOKEN`."
                )
        if scope["query_string"].count(b"&") >= MAX_PARAMETERS:
            raise HTTPException(400, f"The URL has more than {MAX_PARAMETERS} parameters. Send fewer.")

    def _is_allowed(self, host: str) -> bool:
        name = host.lower()
        if not name.endswith("]"):  # an IPv6 address without a port
            name = name.rpartition(":")[0] or name
        return name in self._allowed_hosts or ("0.0.0.0" in self._allowed_hosts and _is_address(name))

    def _is_own_page(self, origin: str, host: str) -> bool:
        """Return whether a page is of this service; one at another port of this machine is of another program."""
        name = origin.partition("://")[2].lower()
        return name == host.lower() or (name in self._allowed_hosts - LOOPBACK_HOSTS and not _is_address(name))


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self._receive, self._send, self._is_head = receive, send, scope["method"] == "HEAD"
        # A client that sent `Expect` waits with its body for an answer.
        has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        self._is_sending, self.status = has_body and b"expect" not in headers, 0
        self._is_replaced = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_sending = self._is_sending and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if self._is_replaced:  # the rest of an answer in another form
            return
        if message["type"] == "http.response.start":
            if message["status"] >= 400 and not _has_type(message, MEDIA_TYPE):  # of Starlette, such as for a range
                await self.fail(make_problem(message["status"], describe_status(message["status"])))
                self._is_replaced = True
                return
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

    async def fail(self, problem: Problem, challenge: str = "") -> None:
        """Answer with an error, unless the answer has begun.

        Args:
            problem: Body of the answer.
            challenge: Header `WWW-Authenticate` (RFC 9110, section 11.6.1); empty for none.
        """
        if self.status:
            return
        content = problem.model_dump_json(exclude_none=True).encode()
        headers = {"content-type": MEDIA_TYPE, "content-length": str(len(content)), **make_headers(problem.status)}
        if challenge:
            headers["www-authenticate"] = challenge
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": content, "more_body": False})

    async def _discard_rest(self) -> None:
        """Read the rest of the body, because a client that still sends would get a reset (RFC 9112, section 9.6)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while self._is_sending:
                    await self.receive()


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER)


def _has_type(message: Message, media_type: str) -> bool:
    return any(name == b"content-type" and value.startswith(media_type.encode()) for name, value in message["headers"])


def _is_denied(error: Exception) -> bool:
    return isinstance(error, HTTPException) and error.status_code == 401


def _get_challenge(scope: Scope) -> str:
    """Return what a client is asked for: a browser that opens a page asks its user for a password, the token."""
    return 'Basic realm="TERN", charset="UTF-8"' if scope["path"] in PAGE_PATHS else 'Bearer realm="TERN"'


def _get_route(scope: Scope) -> str:
    """Return the path of the route of a request, without values, so that their number is bounded."""
    return str(getattr(scope.get("route"), "path", "none"))


def _get_method(scope: Scope) -> str:
    return str(scope["method"]) if scope["method"] in METHODS else "other"


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
