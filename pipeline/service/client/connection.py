"""HTTP requests of the client.

They use the standard library: httpx takes 110 ms to import, `http.client` 20 ms, and the client needs no pool.
No redirect is followed, so that a token never reaches another host.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from urllib.parse import urlencode, urlsplit

from pydantic import ValidationError

from pipeline.service.api.answer_body import InvalidValue, Problem

MAX_ANSWER_BYTES = 512 << 20  # the largest image file that is indexed
PROBLEM = "application/problem+json"


class SearchServiceError(Exception):
    """The search service has answered a request with an error.

    Attributes:
        status: HTTP status.
        detail: What is wrong and what to do next.
        errors: Every invalid value of the request, for status 422.
        retry_seconds: Seconds after which the service asks to try again, for status 503; None if it does not.
    """

    def __init__(
        self, status: int, detail: str, errors: tuple[InvalidValue, ...] = (), retry_seconds: int | None = None
    ) -> None:
        super().__init__(f"{detail} (HTTP status {status})")
        self.status, self.detail, self.errors, self.retry_seconds = status, detail, errors, retry_seconds


@dataclass(frozen=True)
class Connection:
    """How a search service is reached. Each request opens a connection of its own, so that threads may share this."""

    url: str
    """Address of the service, such as `http://127.0.0.1:8080`; a path before `/api` is kept."""
    token: str | None = field(repr=False)
    """Bearer token; None sends none."""
    timeout_seconds: float
    """Maximum time until the connection is open, and between two parts of the answer."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        is_plain = not (parts.query or parts.fragment or parts.username or parts.password)
        if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
            raise ValueError(f"The address of the service is {self.url!r}. Pass one such as 'http://127.0.0.1:8080'.")
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds is {self.timeout_seconds:g}. Pass a number above 0.")

    def request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | int],
        body: bytes | None = None,
        media_type: str = "",
    ) -> bytes:
        """Send a request.

        Args:
            method: HTTP method.
            path: Path, such as `/api/v1/versions`.
            parameters: Parameters of the URL; empty texts are left out.
            body: Content to send; None sends none.
            media_type: Media type of the body.

        Returns:
            The content of the answer.

        Raises:
            SearchServiceError: The service answers with an error.
            ConnectionError: Nothing that talks HTTP answers there.
            TimeoutError: Nothing arrives for `timeout_seconds`.
        """
        query = urlencode({name: value for name, value in parameters.items() if value != ""})
        target = urlsplit(self.url).path.rstrip("/") + path + (f"?{query}" if query else "")
        headers = {"Accept": f"application/json, {PROBLEM}, image/*"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = media_type
        answer, content = self._exchange(method, target, body, headers)
        if len(content) > MAX_ANSWER_BYTES:
            limit = f"{MAX_ANSWER_BYTES >> 20} MiB"
            raise SearchServiceError(answer.status, f"The answer has more than {limit}. Ask for less.")
        if answer.status != HTTPStatus.OK:
            raise _make_error(answer, content)
        return content

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[HTTPResponse, bytes]:
        """Send a request; return the answer, and its content up to one byte more than `MAX_ANSWER_BYTES`."""
        connection = self._open()
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            content = answer.read(MAX_ANSWER_BYTES + 1)
            if answer.length and len(content) <= MAX_ANSWER_BYTES:  # `read` with a size says nothing of a missing rest
                raise IncompleteRead(content, answer.length)
        except TimeoutError:
            raise TimeoutError(
                f"{self.url} has sent nothing for {self.timeout_seconds:g} s. Pass a larger timeout_seconds, or ask "
                "for less."
            ) from None
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise ConnectionError(
                f"{self.url} does not answer ({reason}). Start `tern serve`, or check the address."
            ) from error
        finally:
            connection.close()
        return answer, content

    def _open(self) -> HTTPConnection:
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=self.timeout_seconds)


def _make_error(answer: HTTPResponse, content: bytes) -> SearchServiceError:
    """Convert an answer that is not a result: a problem of the service, or whatever another program answers."""
    media_type = answer.headers.get_content_type()
    try:
        problem = Problem.model_validate_json(content) if media_type == PROBLEM else None
    except ValidationError:
        problem = None
    if problem is None:
        return SearchServiceError(
            answer.status,
            f"The answer is {answer.reason or answer.status} as {media_type}, which is not one of the search service. "
            "Check the address, and what is in front of the service.",
        )
    retry = answer.headers.get("Retry-After", "")
    retry_seconds = int(retry) if retry.isdecimal() else None
    return SearchServiceError(answer.status, problem.detail, tuple(problem.errors or ()), retry_seconds)
