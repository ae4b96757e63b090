"""Filters over metadata: parse `split = 'test' and not caption like '%dog%'` into SQL with bound values.

    filter  = all { "or" all } ;  all = term { "and" term } ;  term = "not" term | "(" filter ")" | test
    test    = COLUMN ( "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) VALUE
            | COLUMN [ "not" ] "like" TEXT
            | COLUMN [ "not" ] "in" "(" VALUE { "," VALUE } ")"
            | COLUMN "is" [ "not" ] "null"
    TEXT    = 'it''s' or "it's" ;  VALUE = TEXT or a number

A column of the user's own has a type. A value of a date may be a year, a month or a day, which is a period:
`= '2024-05'` is true in all of May, `<= '2024-05'` until its end. A test of a list of texts is true if it is true of
one of them.

Each test is true or false: a test of a missing value is false (except `is null`), and `!=`, `not like`, `not in` are
the opposites of `=`, `like`, `in`. In a `like` pattern, % matches any text and _ one character; ASCII letters match
in either case. `caption` is the text of a caption, and for an image the text of any of its captions.

No part of a filter's text becomes part of an SQL statement: columns come from a list, values are parameters.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from data.config import ColumnType
from data.io import find_period
from data.text import LinesError, suggest_name
from index.metadata.schema import CONTENT_COLUMNS, NUMBERS

CAPTION = "caption"
FILTER_COLUMNS = (*(name for name in CONTENT_COLUMNS if name != "kind"), CAPTION)
NO_TYPES: Mapping[str, ColumnType] = {}
MAX_CHARACTERS = 2_000  # length of a filter
MAX_DEPTH = 40  # nested brackets and nots
MAX_WILDCARDS = 6  # % per pattern: the time of a match grows with their power
MAX_CAPTION_TESTS = 8  # tests of captions per filter: each scans all captions and builds a list of image ids
WORDS = ("and", "or", "not", "in", "like", "is", "null")
OPERATORS = {"=": "=", "==": "=", "!=": "=", "<>": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?![\w.]))|(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|==|!=|<>|[=<>(),]))""",
    re.ASCII,
)
FindImageIds = Callable[[str, list[Any]], Iterable[str]]
"""(SQL condition on captions, its parameters) -> ids of the images of the captions that match"""


@dataclass(frozen=True)
class Comparison:
    """`column operator ?`: true or false for a row."""

    column: str
    operator: str
    """SQL operator with its question marks"""
    values: tuple[str | int | float, ...]
    type: ColumnType | None = None
    """type of a column of the user's own; None for the others"""

    def sql(self, kind: str, find_image_ids: FindImageIds) -> tuple[str, list[Any]]:
        """Return an SQL condition on the table `items` of a kind, and its parameters."""
        if self.type == "texts" and self.values:
            tests = f"SELECT 1 FROM json_each(columns, '$.{self.column}') WHERE value {self.operator}"
            return f"EXISTS ({tests})", list(self.values)
        if self.type is not None:
            return f"{make_column_sql(self.column)} {self.operator}", list(self.values)
        if self.column != CAPTION:
            return f"{self.column} {self.operator}", list(self.values)
        condition, values = f"text {self.operator}", list(self.values)
        if kind == CAPTION:
            return condition, values
        image_ids = sorted(set(find_image_ids(condition, values)))
        return "image_id IN (SELECT value FROM json_each(?))", [json.dumps(image_ids)]


def make_column_sql(name: str) -> str:
    """Return the SQL of the value of a column of the user's own, whose name is checked (`is_column_name`)."""
    return f"json_extract(columns, '$.{name}')"


@dataclass(frozen=True)
class Not:
    """The opposite of a filter; true where the filter is false because a value is missing."""

    operand: "Filter"

    def sql(self, kind: str, find_image_ids: FindImageIds) -> tuple[str, list[Any]]:
        """Return a condition and its parameters, as `Comparison.sql`."""
        condition, values = self.operand.sql(kind, find_image_ids)
        return f"(({condition}) IS NOT TRUE)", values


@dataclass(frozen=True)
class BoolOp:
    """Several filters joined by AND or OR."""

    operator: str
    operands: tuple["Filter", ...]

    def sql(self, kind: str, find_image_ids: FindImageIds) -> tuple[str, list[Any]]:
        """Return a condition and its parameters, as `Comparison.sql`."""
        parts = [operand.sql(kind, find_image_ids) for operand in self.operands]
        condition = f" {self.operator} ".join(f"({condition})" for condition, _ in parts)
        return condition, [value for _, values in parts for value in values]


Filter = Comparison | Not | BoolOp


def parse_filter(text: str, types: Mapping[str, ColumnType] = NO_TYPES) -> Filter:
    """Parse a filter.

    Args:
        text: The filter.
        types: Types of the columns of the user's own, by name.

    Raises:
        ValueError: The filter is not valid; the message marks the position and says what is expected there.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"A filter has at most {MAX_CHARACTERS:,} characters, this one {len(text):,}. Shorten it.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"The filter {text[:80]!r} contains bytes that are not UTF-8. Type it again.")
    return _Parser(text, types).parse()


class _Parser:
    """Recursive descent over tokens (type, value, position); the last one is ("end", "", its length)."""

    def __init__(self, text: str, types: Mapping[str, ColumnType]):
        self.types = types
        self.text, self.next, self.depth, self.num_caption_tests = text, 0, 0, 0
        self.tokens: list[tuple[str, str, int]] = []
        if "\0" in text:  # SQLite's `like` ends a text there, and its `=` does not
            self.fail(text.index("\0"), "the character NUL has no meaning here")
        position, end = 0, len(text.rstrip())
        while position < end:
            match = TOKEN.match(text, position)
            if not match:
                position += len(text[position:]) - len(text[position:].lstrip())
                unclosed = text[position] in "'\""
                self.fail(position, "a quote is not closed" if unclosed else f"{text[position]!r} has no meaning here")
            kind = str(match.lastgroup)
            value, start = match[kind], match.start(kind)
            if kind == "name" and value.lower() in WORDS:
                kind, value = "word", value.lower()
            self.tokens.append((kind, value, start))
            position = match.end()
        self.tokens.append(("end", "", end))

    def fail(self, position: int, problem: str) -> NoReturn:
        """Raise ValueError with a line of the text and a caret under the position."""
        line = "".join(c if c.isprintable() else " " for c in self.text)
        start = max(0, position - 60)
        part = ("  …" if start else "  ") + line[start : position + 40] + ("…" if position + 40 < len(line) else "")
        raise LinesError(f"The filter is not valid: {problem}", part, f"{'^':>{position - start + bool(start) + 3}}")

    def fail_expected(self, expected: str) -> NoReturn:
        """Raise ValueError because the next token is not what is expected."""
        kind, value, position = self.tokens[self.next]
        self.fail(position, f"{expected} is expected, not {'the end' if kind == 'end' else repr(value)}")

    def accept(self, *values: str) -> str:
        """Consume the next token if it is one of these words or signs and return it; else return ""."""
        kind, value, _ = self.tokens[self.next]
        if kind in ("word", "sign") and value in values:
            self.next += 1
            return value
        return ""

    def parse(self) -> Filter:
        """Parse the whole text."""
        result = self.parse_operation("or")
        if self.tokens[self.next][0] != "end":
            self.fail_expected("`and`, `or` or the end")
        return result

    def parse_operation(self, word: str) -> Filter:
        """Parse operands joined by `or`, or by `and`."""
        operands: list[Filter] = []
        while not operands or self.accept(word):
            operands.append(self.parse_operation("and") if word == "or" else self.parse_term())
        return operands[0] if len(operands) == 1 else BoolOp(word.upper(), tuple(operands))

    def parse_term(self) -> Filter:
        """Parse a negation, a filter in brackets, or a test."""
        position = self.tokens[self.next][2]
        if not (opening := self.accept("not", "(")):
            return self.parse_test()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(position, f"more than {MAX_DEPTH} nested brackets and nots")
        result = Not(self.parse_term()) if opening == "not" else self.parse_operation("or")
        if opening == "(" and not self.accept(")"):
            self.fail_expected("`)`, `and` or `or`")
        self.depth -= 1
        return result

    def parse_test(self) -> Filter:
        """Parse a test of one column."""
        column = self.parse_column()
        result: Filter
        if self.accept("is"):
            negated = self.accept("not")
            if not self.accept("null"):
                self.fail_expected("`null` or `not null`")
            # Of an image `caption is null` means that it has no captions.
            result = (
                Not(Comparison(column, "LIKE ?", ("%",)))
                if column == CAPTION
                else Comparison(column, "IS NULL", (), self.get_type(column))
            )
            return Not(result) if negated else result
        if sign := self.accept(*OPERATORS):
            result = self.parse_comparison(column, OPERATORS[sign])
            return Not(result) if sign in ("!=", "<>") else result
        negated = self.accept("not")
        result = self.parse_in(column) if self.accept("in") else self.parse_like(column)
        return Not(result) if negated else result

    def get_type(self, column: str) -> ColumnType | None:
        """Return the type of a column of the user's own; None for the others."""
        return self.types.get(column)

    def is_number(self, column: str) -> bool:
        """Return whether values of a column are numbers."""
        return column in NUMBERS or self.get_type(column) == "number"

    def parse_comparison(self, column: str, operator: str) -> Filter:
        """Parse the value after an operator of SQL."""
        position, value = self.tokens[self.next][2], self.parse_value(column)
        if self.get_type(column) != "date":
            return Comparison(column, f"{operator} ?", (value,), self.get_type(column))
        try:
            start, end = find_period(str(value))
        except ValueError:
            self.fail(position, "a date is expected, such as '2024', '2024-05', '2024-05-31' or '2024-05-31T10:00:00'")
        first, after = (Comparison(column, sign, (text,), "date") for sign, text in ((">= ?", start), (">= ?", end)))
        if operator in ("<", "<="):
            return Comparison(column, "< ?", (start if operator == "<" else end,), "date")
        if operator in (">", ">="):
            return first if operator == ">=" else after
        return BoolOp("AND", (first, Comparison(column, "< ?", (end,), "date")))

    def parse_column(self) -> str:
        """Parse the name of a column."""
        kind, column, position = self.tokens[self.next]
        names = (*FILTER_COLUMNS, *self.types)
        if kind != "name":
            self.fail_expected(f"a column ({', '.join(names)}), `not` or `(`")
        if column not in names:
            self.fail(position, f"there is no column {column!r}: {suggest_name(column, names, 'columns are')}")
        self.next += 1
        self.num_caption_tests += column == CAPTION
        if self.num_caption_tests > MAX_CAPTION_TESTS:
            self.fail(position, f"more than {MAX_CAPTION_TESTS} tests of `caption`; split the filter")
        return column

    def parse_in(self, column: str) -> Filter:
        """Parse the list of values after `in`."""
        values: list[str | int | float] = []
        periods: list[Filter] = []
        if not self.accept("("):
            self.fail_expected("`(`")
        while not (values or periods) or self.accept(","):
            if self.get_type(column) == "date":
                periods.append(self.parse_comparison(column, "="))
            else:
                values.append(self.parse_value(column))
        if not self.accept(")"):
            self.fail_expected("`,` or `)`")
        if periods:
            return BoolOp("OR", tuple(periods))
        return Comparison(column, f"IN ({', '.join('?' * len(values))})", tuple(values), self.get_type(column))

    def parse_like(self, column: str) -> Comparison:
        """Parse `like` and its pattern."""
        position = self.tokens[self.next][2]
        if not self.accept("like"):
            self.fail_expected("one of = != < <= > >=, `like`, `in` or `is`")
        if self.is_number(column):
            self.fail(position, f"{column} is a number; `like` is for texts")
        position = self.tokens[self.next][2]
        pattern = re.sub("%+", "%", str(self.parse_value(column)))
        if pattern.count("%") > MAX_WILDCARDS:
            self.fail(position, f"more than {MAX_WILDCARDS} % in a pattern; split it with `and`")
        return Comparison(column, "LIKE ?", (pattern,), self.get_type(column))

    def parse_value(self, column: str) -> str | int | float:
        """Parse a number or a quoted text, whichever the column holds."""
        kind, value, position = self.tokens[self.next]
        is_number = self.is_number(column)
        if kind in ("number", "name") and not is_number:
            self.fail(position, f"a text must be in quotes: '{value}'")
        if kind != ("number" if is_number else "text"):
            self.fail_expected("a number" if is_number else "a text in quotes")
        self.next += 1
        if kind == "text":
            return value[1:-1].replace(value[0] * 2, value[0])
        number = int(value) if value.lstrip("+-").isdigit() else float(value)
        if abs(number) >= 2**63:
            self.fail(position, "a number of more than 64 bits")
        return number
