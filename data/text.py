"""Text of `data`."""

from pathlib import Path


def escape_invalid_text(text: str) -> str:
    """The text with what is no character (a byte of a file name that is not UTF-8) written as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """`text` on one line of visible characters, all others as `\\n`, `\\x1b`, `\\u202e`: safe in a terminal, and UTF-8.

    A file may be named by anyone: its name must not move the cursor, hide its neighbors, or be no text at all.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8. Raises ValueError naming a file that is none."""
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}): save it as such") from error
