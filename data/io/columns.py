"""Columns of the user's own: their names, their dates, and the JSON text that holds the values of one record."""

import calendar
import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime

ColumnValue = str | int | float | list[str]
"""A value of a column: a text or a date, a number, or a list of texts."""
MAX_COLUMNS = 64
MAX_NAME_CHARACTERS = 60
# Columns that every index has, names of other fields; and words of filters.
_OWN_NAMES = "key kind id image_id text path split width height content_hash columns image caption captions file_name"
RESERVED_NAMES = frozenset(f"{_OWN_NAMES} and or not in like is null true false".split())
_NAME = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:Z|[+-]\d\d:?\d\d))?)?", re.ASCII)
_PERIOD = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?", re.ASCII)


def make_column_name(name: str) -> str:
    """Make the name of a column in filters from the name of a field: `Date taken` becomes `date_taken`.

    Returns:
        An empty text if no name can be made: the field has no letters or digits of ASCII, or the name is too long.
    """
    short = re.sub(r"[^a-z0-9]+", "_", name.strip().casefold()).strip("_")
    short = f"_{short}" if short[:1].isdigit() else short
    return short if len(short) <= MAX_NAME_CHARACTERS else ""


def is_column_name(name: str) -> bool:
    """Return whether a text can be the name of a column of the user's own."""
    return _NAME.fullmatch(name) is not None and len(name) <= MAX_NAME_CHARACTERS and name not in RESERVED_NAMES


def parse_date(text: str) -> str:
    """Convert a date of ISO 8601, with or without a time, to the form that is stored.

    Returns:
        `2024-05-31`, `2024-05-31T10:00:00`, or with a time zone `2024-05-31T08:00:00Z`. Their order as texts is
        that of the dates. Fractions of seconds are dropped.

    Raises:
        ValueError: It is not such a date.
    """
    text = text.strip()
    if not _DATE.fullmatch(text):
        raise ValueError("it is not a date such as 2024-05-31 or 2024-05-31T10:00:00+02:00")
    text = re.sub(r"[.,]\d+", "", text.replace(" ", "T", 1) if text[10:11] == " " else text).replace(" ", "")
    return date.fromisoformat(text).isoformat() if len(text) == 10 else format_date(datetime.fromisoformat(text))


def format_date(value: date) -> str:
    """Convert a date, or a date and time, to the form that `parse_date` returns."""
    if not isinstance(value, datetime):
        return value.isoformat()
    if value.tzinfo is None:
        return value.replace(microsecond=0).isoformat()
    return value.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def find_period(text: str) -> tuple[str, str]:
    """Find the first text of a period, and the first one after it: `2024-05` is from `2024-05-01` until `2024-06-01`.

    Args:
        text: A year, a month, a day, or a date with a time, whose period is this moment alone.

    Raises:
        ValueError: It is none of these.
    """
    match = _PERIOD.fullmatch(text.strip())
    if match is None:
        moment = parse_date(text)
        return moment, moment + "\0"
    year, month, day = (int(part) if part else 0 for part in match.groups())
    start = date(year, month or 1, day or 1)
    if day:
        ordinal = start.toordinal() + 1
        return start.isoformat(), date.fromordinal(ordinal).isoformat() if ordinal <= date.max.toordinal() else "9999~"
    if month:
        days = calendar.monthrange(year, month)[1]
        return start.isoformat(), find_period(f"{year:04}-{month:02}-{days:02}")[1]
    return start.isoformat(), f"{year + 1:04}-01-01" if year < date.max.year else "9999~"


def dump_columns(values: Mapping[str, ColumnValue]) -> str | None:
    """Write the values of a record as one text, equal for equal values; None without values."""
    if not values:
        return None
    return json.dumps(dict(sorted(values.items())), separators=(",", ":"), ensure_ascii=False)


def parse_columns(text: str | None) -> dict[str, ColumnValue]:
    """Read the values of a record that `dump_columns` has written."""
    return json.loads(text) if text else {}
