"""JSON schema of a setting KEY=VALUE of a plan, by which the Prefect server rejects invalid values.

The server has neither the plan file nor pydantic; it only matches texts with patterns. So the schema rejects what is
invalid for every plan file: an unknown key, a word instead of a number, a number out of range. Invalid combinations of
settings are found when the plan is read. The schema also rejects some unusual spellings that pydantic accepts, such as
`true` for 1, and "Infinity". The message of a rejection says what was expected.
"""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
Value = tuple[str, str]
"""Pattern of a value, written as TOML or as a plain word; and its description."""
END = r"\s*(#.*)?$"
RARE_NUMBERS = r"[+-]?(0[xob][\da-fA-F_]+|inf|\d[\d_]*(\.\d+)?[eE][+-]?\d+|\d+(_\d+)+(\.\d+)?)"
"""Numbers whose range no pattern checks: hexadecimal, with an exponent, with underscores."""


def setting_schema(plan: type[BaseModel]) -> Schema:
    """Make the JSON schema of KEY=VALUE for the settings of a plan.

    It is a chain of `if`, one per kind of value.
    """
    plan_schema = plan.model_json_schema()
    keys_by_value: dict[Value, list[str]] = {}
    for key, schemas in _group_by_key(_iter_leaves(plan_schema, plan_schema.get("$defs", {}))).items():
        values = sorted({_describe_value(schema) for schema in schemas})
        value = "|".join(pattern for pattern, _ in values), " or ".join(text for _, text in values)
        keys_by_value.setdefault(value, []).append(key)
    chain: Schema = {"const": "KEY=VALUE with a KEY of the plan, such as train.seed"}
    for (pattern, text), keys in keys_by_value.items():
        fits = {"if": {"pattern": rf"^[^=]+=\s*(?!\s+\S)({pattern}){END}"}, "else": {"const": f"KEY=VALUE with {text}"}}
        chain = {"if": {"pattern": rf"^\s*({'|'.join(keys)})\s*="}, "then": fits, "else": chain}
    return chain


def _group_by_key(leaves: Iterator[tuple[str, Schema]]) -> dict[str, list[Schema]]:
    schemas_by_key: dict[str, list[Schema]] = {}
    for key, schema in leaves:
        schemas_by_key.setdefault(key, []).append(schema)
    return schemas_by_key


def _iter_leaves(node: Schema, definitions: dict[str, Schema], key: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield (pattern of the dotted key, schema) of all values below a node; a table is a value too."""
    if "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]]
    choices: list[Schema] = node.get("anyOf") or node.get("oneOf") or []
    for choice in choices:
        yield from _iter_leaves(choice, definitions, key)
    if "type" in node and key and node["type"] != "null":  # TOML cannot write a null
        yield key, node
    dot = rf"{key}\." if key else ""
    for name, child in node.get("properties", {}).items():
        yield from _iter_leaves(child, definitions, dot + re.escape(name))
    if isinstance(values := node.get("additionalProperties"), dict):
        yield from _iter_leaves(values, definitions, rf"{dot}[\w-]+")


def _describe_value(schema: Schema) -> Value:
    if "enum" in schema or "const" in schema:
        words: list[Any] = schema.get("enum") or [schema["const"]]
        return _quoted("|".join(map(re.escape, words))), f"one of {', '.join(map(repr, words))}"
    kinds = {"integer": _integer, "number": _number, "boolean": _boolean, "array": _list, "object": _table}
    return kinds.get(schema["type"], _text)(schema)


def _quoted(pattern: str) -> str:
    return rf"""["']?({pattern})["']?"""


def _boolean(schema: Schema) -> Value:
    words = (
        "true",
        "yes",
        "on",
        "t",
        "y",
        "false",
        "no",
        "off",
        "f",
        "n",
    )  # the words that pydantic accepts, in upper or lower case
    cased = ["".join(f"[{letter}{letter.upper()}]" for letter in word) for word in words]
    return _quoted("|".join([*cased, r"[01](\.0)?"])), "true or false"


def _list(schema: Schema) -> Value:
    """Describe a list of texts or numbers in TOML; only the range of whole numbers is checked."""
    items = schema.get("prefixItems", [schema.get("items")])
    quoted, number = r"""("([^"\\\n]|\\.)*"|'[^'\n]*')""", _quoted(r"[+-]?(\.?\d[\w.+-]*|inf|nan)")
    described = {"string": ("texts in quotes", quoted), "number": ("numbers", number)}
    kinds, item = described.get(items[0]["type"]) or ("whole numbers", _integer(items[0])[0])
    min_items, max_items = schema.get("minItems", 0), schema.get("maxItems")
    more_items = f"{max(min_items, 1) - 1},{'' if max_items is None else max_items - 1}"
    listed = rf"\s*{item}\s*(,\s*{item}\s*){{{more_items}}},?"
    rare = r"""([^#"']|"(?!"")|'(?!''))*(#|"{3}|'{3})[\s\S]*"""  # comments, and texts of several lines
    text = f"{max_items} {kinds}" if min_items == max_items else kinds + f", {min_items} or more," * bool(min_items)
    return rf"\[({listed}{'' if min_items else '|'})\s*\]|\[{rare}\]", f"a list of {text} in brackets"


def _table(schema: Schema) -> Value:
    names: list[str] = schema.get("propertyNames", {}).get("enum", [])
    values = schema.get("additionalProperties")
    words = _list_words(values) if isinstance(values, dict) else []
    if words:
        pair = rf"\s*[\w-]+\s*=\s*[\"']({'|'.join(map(re.escape, words))})[\"']\s*"
        return rf"\{{({pair}(,{pair})*|\s*)\}}", f"a table in braces with values of {', '.join(map(repr, words))}"
    if not names:
        return r"\{.*\}", "a table in braces"
    return rf"\{{(\s*({'|'.join(names)})\s*=[^,{{}}]*,?)*\s*\}}", f"a table in braces with {', '.join(names)}"


def _list_words(schema: Schema) -> list[str]:
    """List the words that a value may be; none if it may be anything else."""
    choices = [choice.get("enum") or [choice.get("const")] for choice in schema.get("anyOf", [schema])]
    words = [word for choice in choices for word in choice]
    return [] if None in words else words


def _text(schema: Schema) -> Value:
    return (
        rf"(?!(true|false|[+-]?(0|[1-9]\d*)(\.\d+)?|\[[\s\S]*\]|\{{.*\}}){END})[\s\S]+",
        "a text (in quotes, if it is a number)",
    )


def _integer(schema: Schema) -> Value:
    low, high = schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum", 0) - 1)
    sign = r"[+-]?" if low is None else r"\+?"
    at_least = rf"(?={_from(low)}(?!\d))" if low else ""
    at_most = rf"({_up_to(high)})(?!\d)" if high > 0 else r"\d+"
    return _quoted(rf"{sign}0*{at_least}{at_most}(\.0*)?|{RARE_NUMBERS}"), f"a whole number{_describe_range(schema)}"


def _number(schema: Schema) -> Value:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    sign = r"[+-]?" if low is None else r"\+?"
    excluded = [schema[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in schema]
    # Patterns compare whole numbers only: of the numbers below a minimum such as 0.01, only 0 is excluded.
    excluded += [0] if low and 0 < low < 1 else []
    edge = rf"(?!0*({'|'.join(str(int(x)) for x in excluded)})(\.0*)?[\"']?{END})" if excluded else ""
    whole = rf"(?={_from(int(low))}(?!\d))\d+" if low and low >= 1 else r"\d*"
    plain = rf"{whole}(\.\d*)?" if high is None else rf"({_up_to(int(high) - 1)})(\.\d*)?(?![\d.])|{int(high)}(\.0*)?"
    return _quoted(rf"{sign}{edge}0*({plain})|{RARE_NUMBERS}"), f"a number{_describe_range(schema)}"


def _describe_range(schema: Schema) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    text = " and ".join(f"{word} {schema[key]:,}" for key, word in words.items() if key in schema)
    return f" {text}" if text else ""


def _from(low: int) -> str:
    """Return a pattern of the integers of at least `low`, which is at least 1, without leading zeros."""
    digits = str(low)
    more = [rf"[1-9]\d{{{len(digits)},}}", digits]
    more += [rf"{digits[:at]}[{int(d) + 1}-9]\d{{{len(digits) - at - 1}}}" for at, d in enumerate(digits) if d != "9"]
    return f"({'|'.join(more)})"


def _up_to(high: int) -> str:
    """Return a pattern of the integers from 0 to `high`, without leading zeros."""
    digits = str(high)
    less = [digits, rf"\d{{0,{len(digits) - 1}}}"]
    return "|".join(
        less
        + [rf"{digits[:at]}[0-{int(d) - 1}]\d{{{len(digits) - at - 1}}}" for at, d in enumerate(digits) if d != "0"]
    )
