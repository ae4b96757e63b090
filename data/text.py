"""Safe text: file names and annotations may hold anything; used wherever such text is stored, logged or displayed."""

import codecs
import logging
import re
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pydantic import ValidationError

MIN_SIMILARITY = 0.7  # of a suggested name; a worse one would only mislead
MAX_LISTED = 12  # more names hide the suggested one
MARKUP = str.maketrans("<>[]`|*", "‹›()'¦∗")  # characters of every font, unlike the full-width ones
ENTITY = re.compile(r"&(?=#?\w{1,31};)")
PACKAGES = ("data", "extractors", "tern", "index", "pipeline", "flows")
MAX_ID_CHARACTERS = 1_000
GLOB_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|.", re.DOTALL)
MAX_LINE_CHARACTERS = 1 << 24
BIDI_CONTROLS = (
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the order in which a name is displayed
)
BYTE_ORDER_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def escape_invalid_text(text: str) -> str:
    r"""Escape lone surrogates, such as bytes of a file name that are not UTF-8, as `\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    r"""Convert a text to one line of visible characters; others become `\n`, `\x1b`, `\u202e` and so on.

    A file name from any source must not move the cursor of a terminal, hide other text or be invalid UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def suggest_name(name: str, names: Iterable[str], lead: str) -> str:
    """Suggest the name that is nearly equal to an unknown name, and list the names that exist.

    If there is a nearly equal name, a list of more than `MAX_LISTED` names is left out.

    Args:
        name: The unknown name.
        names: The names that exist.
        lead: Words in front of the list, such as `columns are`.
    """
    names = list(names)
    matches = get_close_matches(name, names, 1, MIN_SIMILARITY)
    if not matches:
        return f"{lead} {', '.join(names) or 'none'}"
    hint = f"did you mean {matches[0]!r}?"
    return hint if len(names) > MAX_LISTED else f"{hint} {lead[:1].upper()}{lead[1:]} {', '.join(names)}"


def printable_lines(text: str) -> str:
    """Make each line of a text visible, as `printable` does, and keep its line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def escape_markdown(text: str) -> str:
    """Make a text one visible line that a page shows as it is, and not as Markdown or HTML.

    A file named `![](http://...)` would make the browser fetch it. Only entities are changed at `&`.
    """
    return ENTITY.sub("&amp;", printable(text).translate(MARKUP))


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


def compile_globs(patterns: Sequence[str]) -> re.Pattern[str] | None:
    """Compile patterns of paths with `/`, as .gitignore has them, into one that is applied by `fullmatch`.

    `*` and `?` match within a name, `**` any number of folders, `[ab]` and `[!ab]` one character. A pattern without `/`
    matches the name of a file or folder at any depth. Upper and lower case are equal.

    Returns:
        None without patterns.

    Raises:
        ValueError: A set of characters is not valid.
    """
    alternatives = []
    for pattern in patterns:
        path = pattern.strip("/")
        translated = "".join(map(_translate_token, GLOB_TOKEN.findall(path)))
        alternatives.append(translated if "/" in path else f"(?:.*/)?{translated}")
    try:
        return re.compile("|".join(alternatives), re.DOTALL | re.IGNORECASE) if alternatives else None
    except re.error as error:
        names = ", ".join(patterns)
        raise ValueError(f"A set of characters in {names} is not valid: {error}. Correct the pattern.") from error


def _translate_token(token: str) -> str:
    """Translate `*`, `?`, a set of characters or one character of a pattern to a regular expression."""
    if token.startswith("[") and len(token) > 1:
        negated = token[1] in "!^"
        characters = re.sub(r"([\\\[\]&~|])", r"\\\1", token[1 + negated : -1])
        return f"[{'^/' if negated else ''}{characters}]"
    return {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token))


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        ValueError: The file is not text.
    """
    try:
        text = path.read_text(encoding=detect_encoding(path)).removeprefix("\ufeff")
        return text.removesuffix("\n").split("\n")
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
    """Print log lines on standard error: from INFO what the stages and the training resume, others from WARNING."""
    make_logs_printable()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for package in ("pipeline", "tern"):
        logging.getLogger(package).setLevel(logging.INFO)


def iter_lines(file: TextIO) -> Iterator[str | None]:
    """Yield the lines of a text file; None for one of `MAX_LINE_CHARACTERS` or more, which would fill the memory."""
    while line := file.readline(MAX_LINE_CHARACTERS):
        is_long = len(line) == MAX_LINE_CHARACTERS and line[-1] not in "\r\n"
        while is_long and line and line[-1] not in "\r\n":
            line = file.readline(MAX_LINE_CHARACTERS)
        yield None if is_long else line


def find_id_problem(name: str) -> str:
    """Find why a text is not an id; an empty text if it is one.

    Stores, exports and the index hold ids in lines of text, so that an id has no control characters.
    """
    if not name:
        return "it is empty"
    if len(name) > MAX_ID_CHARACTERS:
        return f"it has {len(name):,} characters; at most {MAX_ID_CHARACTERS:,} are allowed"
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs") or character in BIDI_CONTROLS:
            return f"it has the control character {printable(character)}"
    return ""


def detect_encoding(path: Path) -> str:
    """Detect the encoding of a text file by its first bytes: UTF-16 or UTF-32 with a byte order mark, or UTF-8.

    Raises:
        ValueError: The file looks like UTF-16 without a byte order mark.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    if any(0 not in head[half::2] and not any(head[1 - half :: 2]) for half in (0, 1) if len(head) > 3):
        raise ValueError(f"{path} seems to be UTF-16 without a byte order mark. Save it as UTF-8.")
    return "utf-8"


def find_invalid_line(path: Path, encoding: str) -> int:
    """Find the number of the first line of a file that is not text in an encoding whose line ends are one byte."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return number
    return 0
