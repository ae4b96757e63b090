"""Read the body of a request into memory, within the limits of size, time and pieces. No temporary file is written."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import HTTPException, Request

from pipeline.service.limits import (
    BODY_SECONDS,
    FREE_BODY_SECONDS,
    MAX_JSON_BYTES,
    MAX_UPLOAD_BYTES,
    MIN_BODY_RATE,
    ByteBudget,
)

FORM = "multipart/form-data"


class UploadAbortedError(Exception):
    """The client closed the connection before the end of its upload; the text has the number of bytes so far."""


@dataclass(frozen=True)
class BodyKind:
    """What the body of a route is."""

    name: str
    max_bytes: int
    media_types: tuple[str, ...]
    """Beginnings of the media types that are accepted; a body without a media type is accepted too"""
    advice: str
    """How to send the body"""


# Without a header of its own, `curl --data-binary` declares every body as a form.
PHOTO = BodyKind(
    "photo",
    MAX_UPLOAD_BYTES,
    ("image/", "application/octet-stream", "application/x-www-form-urlencoded"),
    "Send the bytes of the photo as the body, as `curl --data-binary @photo.jpg` and `httpx.post(URL, content=...)` do",
)
JSON = BodyKind(
    "JSON body",
    MAX_JSON_BYTES,
    ("application/json",),
    "Send JSON with the header `Content-Type: application/json`",
)


@asynccontextmanager
async def receive_upload(request: Request, budget: ByteBudget, kind: BodyKind) -> AsyncIterator[bytes]:
    """Read the body of a request. Its bytes count against the budget until the block ends.

    Raises:
        HTTPException: The body is too large (413) or too slow (408), or is compressed or of another type (415).
        BusyError: The bodies of all requests are too large together.
        UploadAbortedError: The client closed the connection.
    """
    _check_type(request, kind)
    if (declared := request.headers.get("content-length", "")).isdecimal() and len(declared) < 20:
        _check_size(int(declared), kind)
    pieces: list[bytes] = []
    taken = 0
    try:
        async for piece in _iter_body(request, kind):
            budget.take(len(piece))
            taken += len(piece)
            pieces.append(piece)
        body = b"".join(pieces)
        pieces.clear()
        yield body
    finally:
        budget.give_back(taken)


def _check_type(request: Request, kind: BodyKind) -> None:
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise HTTPException(415, f"The body is compressed. {kind.advice}.")
    media_type = request.headers.get("content-type", "").strip().lower()
    if media_type.startswith(FORM):
        raise HTTPException(415, f"The body is a form ({FORM}), which the service does not read. {kind.advice}.")
    if media_type and not media_type.startswith(kind.media_types):
        raise HTTPException(415, f"The body has the type {media_type[:60]!r}. {kind.advice}.")


async def _iter_body(request: Request, kind: BodyKind) -> AsyncIterator[bytes]:
    size, start = 0, time.monotonic()
    while True:
        seconds = time.monotonic() - start
        # The moment at which the bytes so far become too few.
        deadline = min(BODY_SECONDS, max(FREE_BODY_SECONDS, size / MIN_BODY_RATE))
        try:
            message = await asyncio.wait_for(request.receive(), deadline - seconds)
        except TimeoutError:
            raise HTTPException(
                408,
                f"{size:,} bytes of the {kind.name} arrived in {seconds:.0f} s. Send it faster, or send a smaller one.",
            ) from None
        if message["type"] == "http.disconnect":
            raise UploadAbortedError(f"The upload ended after {size:,} bytes. Send it again.")
        size += len(message.get("body", b""))
        _check_size(size, kind)
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _check_size(size: int, kind: BodyKind) -> None:
    if size > kind.max_bytes:
        raise HTTPException(413, f"The {kind.name} is larger than {kind.max_bytes:,} bytes. Send a smaller one.")
