"""Errors of the search service as `application/problem+json` (RFC 9457)."""

import errno
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipeline.service.api.answer_body import InvalidValue, Problem
from pipeline.service.limits import RETRY_SECONDS, BusyError

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20  # that one answer lists
MAX_DETAIL = 2_000  # characters


class InvalidRequestError(Exception):
    """Values of a request are invalid; the answer has status 422 and lists them."""

    def __init__(self, errors: Sequence[InvalidValue]) -> None:
        super().__init__(f"{errors[0].pointer}: {errors[0].detail}")
        self.errors = list(errors[:MAX_ERRORS])


def make_problem(status: int, detail: str, errors: Sequence[InvalidValue] = ()) -> Problem:
    """Make the body of an error."""
    title = HTTPStatus(status).phrase
    return Problem(title=title, status=status, detail=detail[:MAX_DETAIL], errors=list(errors) or None)


def describe_status(status: int) -> str:
    """Return what a status means, for errors that have no text of their own."""
    meaning = HTTPStatus(status).description or HTTPStatus(status).phrase
    return f"{meaning}. The page /api/v1/docs lists the requests that the service answers."


def make_headers(status: int) -> dict[str, str]:
    """Return the headers that an error of a status has besides those of its body."""
    return {"retry-after": str(RETRY_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}


def make_problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Make the response of an error."""
    return Response(
        problem.model_dump_json(exclude_none=True),
        problem.status,
        {**make_headers(problem.status), **(headers or {})},
        MEDIA_TYPE,
    )


def explain_error(error: Exception) -> Problem:
    """Return the body of the answer to any error of a request. Paths of this machine are in the log only."""
    if isinstance(error, StarletteHTTPException):
        is_default = error.detail == HTTPStatus(error.status_code).phrase
        return make_problem(error.status_code, describe_status(error.status_code) if is_default else str(error.detail))
    if isinstance(error, RequestValidationError):
        values = [_describe_parameter(found["loc"], found["msg"]) for found in error.errors()[:MAX_ERRORS]]
        return make_problem(422, "; ".join(f"{value.pointer}: {value.detail}" for value in values) + ".", values)
    if isinstance(error, InvalidRequestError):
        return make_problem(422, str(error), error.errors)
    if isinstance(error, BusyError):
        return make_problem(503, f"The service is busy. Try again in {RETRY_SECONDS} seconds.")
    if isinstance(error, MemoryError):
        log.error("Out of memory")
        return make_problem(503, "The service has too little memory for this request now.")
    if isinstance(error, OSError):
        log.error("%s: %s", error.strerror or type(error).__name__, error.filename or error)
        reason = error.strerror or errno.errorcode.get(error.errno or 0, "unknown")
        return make_problem(503, f"A file or a resource of the machine cannot be used now ({reason}).")
    log.error("Internal error", exc_info=error)
    return make_problem(500, "The service has an internal error. Its log has the details.")


def _describe_parameter(location: Sequence[str | int], message: str) -> InvalidValue:
    return InvalidValue(pointer=str(location[-1])[:60], detail=message)
