"""Read the body of an upload into memory, within the limits of size, time and pieces. No temporary file is written."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request

from pipeline.service.limits import (
    BODY_SECONDS,
    FREE_BODY_SECONDS,
    MAX_UPLOAD_BYTES,
    MIN_BODY_RATE,
    ByteBudget,
)


class UploadAbortedError(Exception):
    """The client closed the connection before the end of its upload; the text has the number of bytes so far."""


@asynccontextmanager
async def receive_upload(request: Request, budget: ByteBudget) -> AsyncIterator[bytes]:
    """Read the body of a request. Its bytes count against the budget until the block ends.

    Raises:
        HTTPException: The body is too large (413) or too slow (408), or is a form or compressed (415).
        BusyError: The bodies of all requests are too large together.
        UploadAbortedError: The client closed the connection.
    """
    _check_type(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
    if (declared := request.headers.get("content-length", "")).isdecimal() and len(declared) < 20:
        _check_size(int(declared))
    pieces: list[bytes] = []
    taken = 0
    try:
        async for piece in _iter_body(request):
            budget.take(len(piece))
            taken += len(piece)
            pieces.append(piece)
        body = b"".join(pieces)
        pieces.clear()
        yield body
    finally:
        budget.give_back(taken)


def _check_type(content_type: str, encoding: str) -> None:
    kind = "a form" if content_type.strip().lower().startswith("multipart/") else ""
    if encoding.strip().lower() not in ("", "identity"):
        kind = "compressed"
    if kind:
        raise HTTPException(
            415,
            f"The body is {kind}. Send the bytes of the photo as the body, as `curl --data-binary @photo.jpg` does.",
        )


async def _iter_body(request: Request) -> AsyncIterator[bytes]:
    size, start = 0, time.monotonic()
    while True:
        seconds = time.monotonic() - start
        # The moment at which the bytes so far become too few.
        deadline = min(BODY_SECONDS, max(FREE_BODY_SECONDS, size / MIN_BODY_RATE))
        try:
            message = await asyncio.wait_for(request.receive(), deadline - seconds)
        except TimeoutError:
            raise HTTPException(
                408, f"{size:,} bytes of the photo arrived in {seconds:.0f} s. Send it faster, or send a smaller one."
            ) from None
        if message["type"] == "http.disconnect":
            raise UploadAbortedError(f"The upload ended after {size:,} bytes. Send the photo again.")
        size += len(message.get("body", b""))
        _check_size(size)
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _check_size(size: int) -> None:
    if size > MAX_UPLOAD_BYTES:
        raise HTTPException(413, f"The photo is larger than {MAX_UPLOAD_BYTES:,} bytes. Send a smaller one.")
