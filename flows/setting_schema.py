"""What the value of a setting may look like, told to the server as a JSON schema of the text KEY=VALUE.

The server knows neither the plan's file nor pydantic: it compares texts with patterns. So that is refused here what is
wrong whatever the file says, an unknown key, a word for a number, a number out of its bounds, and no more: what two
settings say together is found out where the plan is read. Spellings that nobody writes are refused though pydantic
takes them: `true` for a 1, "Infinity". A refusal names what was expected.
"""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
Value = tuple[str, str]  # a pattern of the value as TOML or a bare word, and what it stands for
END = r"\s*(#.*)?$"
RARE_NUMBERS = (
    r"[+-]?(0[xob][\da-fA-F_]+|inf|\d[\d_]*(\.\d+)?[eE][+-]?\d+|\d+(_\d+)+(\.\d+)?)"  # compared by no pattern
)


def setting_schema(plan: type[BaseModel]) -> Schema:
    """The JSON schema of KEY=VALUE for the settings of a plan, as a chain of kinds of values, each with its keys."""
    whole = plan.model_json_schema()
    kinds: dict[Value, list[str]] = {}
    for key, schemas in _merged(_leaves(whole, whole.get("$defs", {}))).items():
        values = sorted({_value(schema) for schema in schemas})
        kinds.setdefault(("|".join(p for p, _ in values), " or ".join(t for _, t in values)), []).append(key)
    chain: Schema = {"const": "KEY=VALUE with a KEY of the plan, such as train.seed"}
    for (pattern, told), keys in kinds.items():
        fits = {"if": {"pattern": rf"^[^=]+=\s*(?!\s+\S)({pattern}){END}"}, "else": {"const": f"KEY=VALUE with {told}"}}
        chain = {"if": {"pattern": rf"^\s*({'|'.join(keys)})\s*="}, "then": fits, "else": chain}
    return chain


def _merged(leaves: Iterator[tuple[str, Schema]]) -> dict[str, list[Schema]]:
    found: dict[str, list[Schema]] = {}
    for key, schema in leaves:
        found.setdefault(key, []).append(schema)
    return found


def _leaves(node: Schema, named: dict[str, Schema], key: str = "") -> Iterator[tuple[str, Schema]]:
    """(pattern of the dotted key, schema) of all values below a node; a table is also one itself, set whole."""
    if "$ref" in node:
        node = named[node["$ref"].rpartition("/")[2]]
    for choice in node.get("anyOf", node.get("oneOf", ())):
        yield from _leaves(choice, named, key)
    if "type" in node and key and node["type"] != "null":  # TOML cannot write a null
        yield key, node
    dot = rf"{key}\." if key else ""
    for name, below in node.get("properties", {}).items():
        yield from _leaves(below, named, dot + re.escape(name))
    if isinstance(free := node.get("additionalProperties"), dict):
        yield from _leaves(free, named, rf"{dot}[\w-]+")


def _value(schema: Schema) -> Value:
    if "enum" in schema or "const" in schema:
        words = schema.get("enum", [schema.get("const")])
        return _quoted("|".join(map(re.escape, words))), f"one of {', '.join(map(repr, words))}"
    kinds = {"integer": _integer, "number": _number, "boolean": _boolean, "array": _list, "object": _table}
    return kinds.get(schema["type"], _text)(schema)


def _quoted(pattern: str) -> str:
    return rf"""["']?({pattern})["']?"""


def _boolean(schema: Schema) -> Value:
    words = ("true", "yes", "on", "t", "y", "false", "no", "off", "f", "n")  # what pydantic takes, in any case
    cased = ["".join(f"[{letter}{letter.upper()}]" for letter in word) for word in words]
    return _quoted("|".join([*cased, r"[01](\.0)?"])), "true or false"


def _list(schema: Schema) -> Value:
    """Of texts or of numbers, as TOML writes them; a number's bounds are not looked at."""
    items = schema.get("prefixItems", [schema.get("items")])
    text, number = r"""("([^"\\\n]|\\.)*"|'[^'\n]*')""", _quoted(r"[+-]?(\.?\d[\w.+-]*|inf|nan)")
    kinds, item = {"string": ("texts in quotes", text), "number": ("numbers", number)}[items[0]["type"]]
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    more = rf"\s*{item}\s*(,\s*{item}\s*){{{max(least, 1) - 1},{'' if most is None else most - 1}}},?"
    exotic = r"""([^#"']|"(?!"")|'(?!''))*(#|"{3}|'{3})[\s\S]*"""  # comments and texts of several lines
    told = f"{most} {kinds}" if least == most else kinds + f", {least} or more," * bool(least)
    return rf"\[({more}{'' if least else '|'})\s*\]|\[{exotic}\]", f"a list of {told} in brackets"


def _table(schema: Schema) -> Value:
    return r"\{.*\}", "a table in braces"


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
    return _quoted(rf"{sign}0*{at_least}{at_most}(\.0*)?|{RARE_NUMBERS}"), f"a whole number{_told(schema)}"


def _number(schema: Schema) -> Value:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    sign = r"[+-]?" if low is None else r"\+?"
    never = [schema[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in schema]
    never += [0] if low and 0 < low < 1 else []  # patterns compare whole numbers: less than 0.01, of it the 0 alone
    edge = rf"(?!0*({'|'.join(str(int(x)) for x in never)})(\.0*)?[\"']?{END})" if never else ""
    whole = rf"(?={_from(int(low))}(?!\d))\d+" if low and low >= 1 else r"\d*"
    plain = rf"{whole}(\.\d*)?" if high is None else rf"({_up_to(int(high) - 1)})(\.\d*)?(?![\d.])|{int(high)}(\.0*)?"
    return _quoted(rf"{sign}{edge}0*({plain})|{RARE_NUMBERS}"), f"a number{_told(schema)}"


def _told(schema: Schema) -> str:
    words = {"minimum": "min", "exclusiveMinimum": "above", "maximum": "max", "exclusiveMaximum": "below"}
    told = " and ".join(f"{word} {schema[key]:,}" for key, word in words.items() if key in schema)
    return f" {told}" if told else ""


def _from(low: int) -> str:
    """Integers of at least `low`, from 1 on, without leading zeros."""
    digits = str(low)
    more = [rf"[1-9]\d{{{len(digits)},}}", digits]
    more += [rf"{digits[:at]}[{int(d) + 1}-9]\d{{{len(digits) - at - 1}}}" for at, d in enumerate(digits) if d != "9"]
    return f"({'|'.join(more)})"


def _up_to(high: int) -> str:
    """Integers of at most `high`, from 0 on, without leading zeros."""
    digits = str(high)
    less = [digits, rf"\d{{0,{len(digits) - 1}}}"]
    return "|".join(
        less
        + [rf"{digits[:at]}[0-{int(d) - 1}]\d{{{len(digits) - at - 1}}}" for at, d in enumerate(digits) if d != "0"]
    )
