"""Parse JSON text from any source: repeated keys, endless numbers and deep nesting are errors with a reason."""

import json
from collections import Counter
from typing import Any

MAX_DIGITS = 4_300  # Python converts no longer integer


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        json.JSONDecodeError: The text is not JSON.
        ValueError: An object has a key twice, a number is too long, or the text is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_make_object)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(describe_parse_error(error)) from error


def describe_parse_error(error: Exception) -> str:
    """Describe why a text cannot be parsed, without advice for programmers such as that of Python on long numbers."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"a number has more than {MAX_DIGITS:,} digits" if "set_int_max_str_digits" in str(error) else str(error)


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        key = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {key[:60]!r} occurs twice in one object, {str(content)[:80]}")
    return content
