"""Names of the fields of a captions file: columns of a table, keys of JSON lines. No name is guessed.

Other fields are columns (`data.datasets.columns`).

Upper and lower case and surrounding spaces do not matter.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

FIELDS = ("image", "caption", "captions", "split")
CAPTION_FIELDS = ("caption", "captions")
HELD_OUT_WORDS = frozenset({"val", "valid", "validation", "dev", "test", "testing", "eval"})


def normalize_name(name: str) -> str:
    """Return the name of a field as `FIELDS` has it."""
    return name.strip("\ufeff \t").casefold()


def rename_metadata_fields(names: Sequence[str]) -> list[str]:
    """Return the names of a table of metadata as `FIELDS` has them: `file_name` is the image, and `text` a caption.

    Args:
        names: Normalized names.
    """
    renamed = list(names)
    if "image" not in names and "file_name" in names:
        renamed[names.index("file_name")] = "image"
    if "text" in names and not set(CAPTION_FIELDS) & set(names):
        renamed[names.index("text")] = "caption"
    return renamed


def find_name_problem(names: Sequence[str]) -> str:
    """Find a field that occurs twice, or one that may be a misspelled `split`; an empty text if there is none.

    Args:
        names: Normalized names.
    """
    repeated = next((name for name in FIELDS if names.count(name) > 1), None)
    if repeated:
        return f"the field {repeated!r} occurs twice; keep one of them"
    if "split" in names:
        return ""
    similar = [name for name in names if name not in FIELDS and _resembles_split(name)]
    return f"the field {similar[0]!r} is unknown; did you mean 'split'? Rename it, or remove it" if similar else ""


def _resembles_split(name: str) -> bool:
    return "split" in name or bool(difflib.get_close_matches(name, ["split"], 1, cutoff=0.7))


def find_unread_split(row: Mapping[str, Any]) -> str:
    """Find a field that has the name of a held-out split as its value, in a row without `split`.

    The author of such a row means a split that would not be read.

    Args:
        row: Values by normalized name.
    """
    if "split" in row:
        return ""
    for name, value in row.items():
        if name not in FIELDS and isinstance(value, str) and value.strip().casefold() in HELD_OUT_WORDS:
            return f"the field {name!r} has the value {value!r}, but there is no field `split`; rename or remove it"
    return ""
