"""Ids on their way in and out: templates such as `COCO_{number:012d}.jpg`, and paths that stay below a folder."""

import os
import platform
import re
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

MAX_ID_CHARACTERS = 1_000
FIELD = re.compile(r"\{([^{}]*)\}")
SPEC = re.compile(r"0?\d{0,2}d?")
FIELDS = ("id", "stem", "number", "split")


class Template:
    """How ids are renamed: text with `{id}`, `{stem}` (without the suffix), `{number}` (its last digits), `{split}`.

    `{id:012d}` and `{number:012d}` write a number with leading zeros. The word `stem` alone is `{stem}`.

    Raises ValueError for any other field, and for a text without one.
    """

    def __init__(self, text: str):
        self.text = {"stem": "{stem}", "id": "{id}"}.get(text, text)
        fields = FIELD.findall(self.text)
        rest = FIELD.sub("", self.text)
        wrong = [f for f in fields if f.partition(":")[0] not in FIELDS or not SPEC.fullmatch(f.partition(":")[2])]
        if not fields or wrong or "{" in rest or "}" in rest:
            raise ValueError(
                f"--ids {text!r} is no template: write {{id}}, {{stem}}, {{number}} or {{split}}, a number with "
                'leading zeros as {number:012d}; for instance --ids "{id}.jpg"'
            )

    def __call__(self, name: str, split: str = "") -> str:
        """The id that `name` becomes. Raises ValueError if it has no number where one is asked for."""
        digits = re.findall(r"\d+", name)
        values = {"id": name, "stem": strip_suffix(name), "number": digits[-1] if digits else "", "split": split}
        made = FIELD.sub(lambda found: _formatted(name, values, found[1]), self.text)
        return check_id(made)


def _formatted(name: str, values: dict[str, Any], field: str) -> str:
    key, _, spec = field.partition(":")
    value = values[key]
    if not spec and key != "number":
        return value
    if not re.fullmatch(r"[0-9]{1,4000}", value):
        raise ValueError(f"the id {name!r} has no number for {{{field}}}; give another template with --ids")
    return format(int(value), spec)


def strip_suffix(name: str) -> str:
    """An id without the suffix of its last part: `a.b/c.d.jpg` -> `a.b/c.d`."""
    head, slash, tail = name.rpartition("/")
    base, dot, _ = tail.rpartition(".")
    return f"{head}{slash}{base}" if dot and base else name


BIDI_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they would show a name in another order


def check_id(name: str) -> str:
    """The id itself. Raises ValueError for an empty one, an endless one, or one with control characters."""
    if (
        not name
        or len(name) > MAX_ID_CHARACTERS
        or any(unicodedata.category(c) in ("Cc", "Cs") or c in BIDI_CONTROLS for c in name)
    ):
        raise ValueError(f"{name[:60]!r} is no id: 1 to {MAX_ID_CHARACTERS:,} characters without line breaks or NUL")
    return name


def safe_join(root: Path, name: str, suffix: str) -> Path:
    """`root/name` + suffix, for an id that may have slashes. Raises ValueError if it would leave the folder."""
    parts = name.split("/")
    # `atomic` writes beside the file, under a name longer by the machine's and the process's.
    longest = 255 - len(os.fsencode(platform.node())) - len(suffix) - 24
    outside = name.startswith("/") or "\\" in name or ":" in parts[0][1:2] or {"", ".", ".."} & set(parts)
    if outside or any(len(os.fsencode(part)) > longest for part in parts):
        raise ValueError(
            f"the id {name[:80]!r} makes no file name below {root} (parts of 1 to {longest} bytes, no `..`, no leading "
            "slash); rename with --ids"
        )
    path = Path(root, PurePosixPath(name + suffix))
    if not path.parent.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(
            f"the id {name[:80]!r} would leave {root} through a link; remove the link, or rename with --ids"
        )
    return path
