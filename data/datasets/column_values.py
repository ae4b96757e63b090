"""Values of columns: which type a value of a file has, and its conversion to the type of its column."""

import json
import math
import re
from datetime import date
from typing import Any

from data.config import ColumnType
from data.io.columns import ColumnValue, format_date, parse_date
from data.text import escape_invalid_text

MAX_TEXT_CHARACTERS = 2_000
MAX_LIST_TEXTS = 100
MAX_EXACT_INTEGER = 2**53
NUMBER = re.compile(
    r"[+-]?(?:0|[1-9]\d{0,17})(?:\.\d{1,17})?", re.ASCII
)  # 0123 is a text: a postcode or a number of a file


def find_kind(value: Any) -> Any:
    """Return the type that a value of a file has on its own, `missing`, or `unusable` for objects and nested lists."""
    if value is None or value == "" or value == [] or (isinstance(value, float) and math.isnan(value)):
        return "missing"
    if isinstance(value, bool):
        return "text"
    if isinstance(value, int | float):
        return "number" if math.isfinite(value) and abs(value) < 2**63 else "unusable"
    if isinstance(value, date):
        return "date"
    if isinstance(value, str):
        return _find_kind_of_text(value.strip())
    return "texts" if _read_list(value) is not None else "unusable"


def _find_kind_of_text(text: str) -> str:
    if not text:
        return "missing"
    if NUMBER.fullmatch(text):
        return "number"
    if text[:4].isdigit() and text[4:5] == "-":
        try:
            parse_date(text)
            return "date"
        except ValueError:
            return "text"
    return "texts" if text[0] == "[" and _read_list(text) is not None else "text"


def _read_list(value: Any) -> list[str] | None:
    """Read a list of texts, or the JSON of one; None if it is not one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    is_list = isinstance(value, list | tuple) and all(isinstance(text, str | int | float) for text in value)
    return [_format(text) for text in value] if is_list else None


def convert_value(value: Any, column_type: ColumnType) -> ColumnValue:
    """Convert a value of a file that is not missing to the type of its column.

    Raises:
        ValueError: It is not of this type.
    """
    if column_type == "number":
        return _convert_number(value)
    if column_type == "date":
        return format_date(value) if isinstance(value, date) else parse_date(str(value))
    if column_type == "text":
        return _check_text(_format(value))
    texts = _read_list(value)
    if texts is None:
        text = _format(value)
        texts = [part.strip() for part in text.split(";")]
    if len(texts) > MAX_LIST_TEXTS:
        raise ValueError(f"it has more than {MAX_LIST_TEXTS} texts")
    return [_check_text(text) for text in texts if text]


def _convert_number(value: Any) -> int | float:
    if isinstance(value, str):
        if not NUMBER.fullmatch(value.strip()):
            raise ValueError("it is not a number")
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("it is not a number")
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_INTEGER
    return int(value) if is_whole else value


def _format(value: Any) -> str:
    """Convert a value to text as JSON has it: `true`, `3`, `2024-05-31`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return format_date(value)
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return str(_convert_number(value)) if isinstance(value, int | float) else str(value).strip()


def _check_text(text: str) -> str:
    if "\0" in text or escape_invalid_text(text) != text:
        raise ValueError("it has a character that is not text")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"it has more than {MAX_TEXT_CHARACTERS:,} characters")
    return text
