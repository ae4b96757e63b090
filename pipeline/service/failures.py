"""Errors of work in threads, handed over without what the work held.

A future that raises an error is in the traceback of that error. So both would live until garbage is collected, and with
them the variables of all functions on the way, such as a photo of 25 MB.
"""

import traceback
from collections.abc import Callable
from typing import Any


class Failure:
    """An error as the result of a future. It has no traceback, but its text as a note, for the log."""

    def __init__(self, error: BaseException) -> None:
        if not isinstance(error, (OSError, ValueError)):  # these are logged without a traceback
            error.add_note("".join(traceback.format_exception(error)))
        drop_frames(error)
        self._errors = [error]

    def take(self) -> BaseException:
        """Take the error out, once."""
        return self._errors.pop()


def call(function: Callable[[], Any]) -> Any:
    """Call a function; return its result, or its error as a `Failure`."""
    try:
        return function()
    except BaseException as error:  # the waiting request raises it, whatever it is
        return Failure(error)


def drop_frames(error: BaseException) -> None:
    """Delete the traceback of an error, and those of its causes."""
    chained: BaseException | None = error
    while chained is not None and chained.__traceback__ is not None:
        chained.__traceback__ = None
        chained = chained.__cause__ or chained.__context__
