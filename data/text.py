"""Safe text: file names and annotations may hold anything; used wherever such text is stored, logged or displayed."""

import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

PACKAGES = ("data", "extractors", "tern", "index", "pipeline", "flows")


def escape_invalid_text(text: str) -> str:
    r"""Escape lone surrogates, such as bytes of a file name that are not UTF-8, as `\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    r"""Convert a text to one line of visible characters; others become `\n`, `\x1b`, `\u202e` and so on.

    A file name from any source must not move the cursor of a terminal, hide other text or be invalid UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Make each line of a text visible, as `printable` does, and keep its line breaks."""
    return "\n".join(map(printable, text.split("\n")))


class LinesError(ValueError):
    """An error whose message has several lines on purpose; in every other message a line break is shown as `\\n`.

    Args:
        lines: Lines of the message. Their texts become visible characters.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(printable, lines))

    def __str__(self) -> str:
        """Return the lines, joined by line breaks."""
        return "\n".join(self.args)


def describe_validation_error(error: "ValidationError") -> str:
    """Describe the first problem of a JSON file: its key, unless it is the file itself, and what is wrong with it."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"]


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file.

    Raises:
        ValueError: The file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error


class PrintableRecord(logging.LogRecord):
    """Log record whose message and traceback have visible characters only.

    A record of this project is one line. Records of other libraries keep their line breaks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:  # the text that `logging.Formatter` would format itself
            self.exc_text = printable_lines("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))

    def getMessage(self) -> str:
        """Return the message as visible characters."""
        is_own = self.name.partition(".")[0] in PACKAGES
        return (printable if is_own else printable_lines)(super().getMessage())


def make_logs_printable() -> None:
    """Make every log record and every warning of this process printable; show a warning as one line."""
    logging.setLogRecordFactory(PrintableRecord)
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"warning: {printable(str(message))}\n"


def show_logs() -> None:
    """Print the project's log lines from INFO, and those of other libraries from WARNING, on standard error."""
    make_logs_printable()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.INFO)
