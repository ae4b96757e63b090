"""Safe text: file names and annotations may hold anything; used wherever such text is stored or displayed."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

MIN_SIMILARITY = 0.7  # of a suggested name; a worse one would only mislead


def escape_invalid_text(text: str) -> str:
    r"""Escape lone surrogates, such as bytes of a file name that are not UTF-8, as `\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    r"""Convert a text to one line of visible characters; others become `\n`, `\x1b`, `\u202e` and so on.

    A file name from any source must not move the cursor of a terminal, hide other text or be invalid UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def suggest_name(name: str, names: Iterable[str], lead: str) -> str:
    """List the names that exist, after the one that is nearly equal to an unknown name, if there is one.

    Args:
        name: The unknown name.
        names: The names that exist.
        lead: Words in front of the list, such as `columns are`.
    """
    names = list(names)
    matches = get_close_matches(name, names, 1, MIN_SIMILARITY)
    return f"{f'did you mean {matches[0]!r}? ' if matches else ''}{lead} {', '.join(names) or 'none'}"


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
