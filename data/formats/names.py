"""Rename ids by templates such as `COCO_{number:012d}.jpg`, and convert ids to paths that stay below a folder."""

import ast
import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.text import MAX_ID_CHARACTERS, find_id_problem

FIELD = re.compile(r"\{([^{}]*)\}")
PYTHON_BYTES = re.compile(r"b(['\"]).*\1")
SPEC = re.compile(r"0?\d{0,2}d?")
FIELDS = ("id", "stem", "number", "split")


class Template:
    """Template of ids: text with the fields `{id}`, `{stem}`, `{number}` and `{split}`.

    `{stem}` is the id without its suffix, and `{number}` the last digits of the id.

    `{id:012d}` and `{number:012d}` write a number with leading zeros. The text `stem` means `{stem}`, and `id` means
    `{id}`.

    Raises:
        ValueError: The text has an invalid field, or no field.
    """

    def __init__(self, text: str):
        self.text = {"stem": "{stem}", "id": "{id}"}.get(text, text)
        fields = FIELD.findall(self.text)
        rest = FIELD.sub("", self.text)
        invalid = [f for f in fields if f.partition(":")[0] not in FIELDS or not SPEC.fullmatch(f.partition(":")[2])]
        if not fields or invalid or "{" in rest or "}" in rest:
            raise ValueError(
                f"--id-template {text!r} is not a template. Use {{id}}, {{stem}}, {{number}} or {{split}}, and "
                '{number:012d} for leading zeros, for example --id-template "{id}.jpg".'
            )

    def __call__(self, name: str, split: str = "") -> str:
        """Rename an id.

        Raises:
            ValueError: The id has no number for the template, or the new id is not valid.
        """
        if not name:
            check_id(name)  # a template would hide that it is empty
        digits = re.findall(r"\d+", name)
        values = {"id": name, "stem": strip_suffix(name), "number": digits[-1] if digits else "", "split": split}
        return check_id(FIELD.sub(lambda match: _format_field(name, values, match[1]), self.text))


def _format_field(name: str, values: dict[str, Any], field: str) -> str:
    key, _, spec = field.partition(":")
    value = values[key]
    if not spec and key != "number":
        return value
    if not re.fullmatch(r"[0-9]{1,4000}", value):
        raise ValueError(f"the id {name!r} has no number for {{{field}}}; pass another --id-template")
    return format(int(value), spec)


def strip_suffix(name: str) -> str:
    """Remove the suffix of the last part of an id: `a.b/c.d.jpg` becomes `a.b/c.d`."""
    head, slash, tail = name.rpartition("/")
    base, dot, _ = tail.rpartition(".")
    return f"{head}{slash}{base}" if dot and base else name


def check_id(name: str) -> str:
    """Return an id if it is valid.

    Raises:
        ValueError: The id is empty, too long, or has control characters.
    """
    if find_id_problem(name):
        raise ValueError(
            f"{name[:60]!r} is not an id; an id has 1 to {MAX_ID_CHARACTERS:,} characters without control characters"
        )
    return name


def parse_id(value: Any) -> str:
    """Convert the id of an image in a file to text: text, UTF-8 bytes, or a whole number.

    Scripts of Python 2 that run in Python 3 write bytes as `b'im1'`; this becomes `im1`.

    Raises:
        ValueError: The value is something else.
    """
    if isinstance(value, str) and PYTHON_BYTES.fullmatch(value):
        with suppress(ValueError, SyntaxError):  # it is a text that only looks like that
            value = ast.literal_eval(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"the id {value[:60]!r} is not UTF-8 ({error})") from error
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
        raise ValueError(f"the id {str(value)[:60]!r} is a {type(value).__name__}, not a text or a whole number")
    return str(value)


def safe_join(root: Path, name: str, suffix: str) -> Path:
    """Return the path `root/name` + suffix for an id, which may have slashes.

    Raises:
        ValueError: The path would leave the folder, directly or through a link, or a part is too long for a file name.
    """
    parts = name.split("/")
    max_part_bytes = 255 - len(suffix)
    leaves_root = (
        name.startswith("/") or "\\" in name or (len(parts) > 1 and parts[0][1:] == ":") or {"", ".", ".."} & set(parts)
    )
    if leaves_root or any(len(os.fsencode(part)) > max_part_bytes for part in parts):
        raise ValueError(
            f"the id {name[:80]!r} is not a file name below {root} (parts of 1 to {max_part_bytes} bytes, no `..`, no "
            "backslash, no drive, no leading slash); rename it with --id-template"
        )
    path = Path(root, PurePosixPath(name + suffix))
    if not path.parent.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(
            f"the id {name[:80]!r} would leave {root} through a link; remove the link, or rename it with --id-template"
        )
    return path
