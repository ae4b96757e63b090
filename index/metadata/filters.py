"""Filters over metadata: `split = 'test' and width >= 640 and not caption like '%dog%'`, to SQL with bound values.

    filter  = both { "or" both } ;  both = term { "and" term } ;  term = "not" term | "(" filter ")" | test
    test    = COLUMN ( "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) VALUE
            | COLUMN [ "not" ] "like" TEXT
            | COLUMN [ "not" ] "in" "(" VALUE { "," VALUE } ")"
            | COLUMN "is" [ "not" ] "null"
    TEXT    = 'it''s' or "it's" ;  VALUE = TEXT or a number

Every test is true or false: one of a value that is missing is false (but `is null`), and `!=`, `not like`, `not in` are
the opposites of `=`, `like`, `in`. `like` takes % for anything, _ for one character, and tells no ASCII capitals
from others. `caption` is a caption's own text, and of an image the text of any caption of it.

Nothing of a filter's text gets into a statement: columns come from a list, values are parameters.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from index.metadata.schema import COLUMNS, SCHEMA

CAPTION = "caption"
NUMBERS = frozenset(name for name in COLUMNS if pa.types.is_integer(SCHEMA.field(name).type))
FILTER_COLUMNS = (*(name for name in COLUMNS if name not in ("key", "kind")), CAPTION)
MAX_CHARACTERS = 2_000  # characters of a filter
MAX_DEPTH = 40  # brackets and nots within each other
MAX_WILDCARDS = 6  # % in a pattern: the time of a match grows with their power
MAX_CAPTION_TESTS = (
    8  # tests of captions in a filter: each is a walk over all captions, and a list of the images it finds
)
WORDS = ("and", "or", "not", "in", "like", "is", "null")
OPERATORS = {"=": "=", "==": "=", "!=": "=", "<>": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?![\w.]))|(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|==|!=|<>|[=<>(),]))""",
    re.ASCII,
)
Captions = Callable[[str, list[Any]], Iterable[str]]  # (condition, parameters) -> ids of the images of such captions


@dataclass(frozen=True)
class Comparison:
    """`column operator ?`, true or false of a row."""

    column: str
    operator: str  # with its question marks
    values: tuple[str | int | float, ...]

    def sql(self, kind: str, captions: Captions) -> tuple[str, list[Any]]:
        """A condition on the table `items` of a kind's rows, and its parameters."""
        if self.column != CAPTION:
            return f"{self.column} {self.operator}", list(self.values)
        told, values = f"text {self.operator}", list(self.values)
        if kind == CAPTION:
            return told, values
        return "image_id IN (SELECT value FROM json_each(?))", [json.dumps(sorted(set(captions(told, values))))]


@dataclass(frozen=True)
class Not:
    """The opposite of a filter: also where a missing value makes that false."""

    of: "Filter"

    def sql(self, kind: str, captions: Captions) -> tuple[str, list[Any]]:
        """As `Test.sql`."""
        condition, values = self.of.sql(kind, captions)
        return f"(({condition}) IS NOT TRUE)", values


@dataclass(frozen=True)
class BoolOp:
    """Several filters, all of them (AND) or any (OR)."""

    word: str
    parts: tuple["Filter", ...]

    def sql(self, kind: str, captions: Captions) -> tuple[str, list[Any]]:
        """As `Test.sql`."""
        found = [part.sql(kind, captions) for part in self.parts]
        return f" {self.word} ".join(f"({condition})" for condition, _ in found), [v for _, vs in found for v in vs]


Filter = Comparison | Not | BoolOp


def parse_filter(text: str) -> Filter:
    """A filter from its text. Raises ValueError that shows the place and says what may stand there."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"a filter has at most {MAX_CHARACTERS:,} characters, this one {len(text):,}: make it shorter."
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"the filter {text[:80]!r} is no text: it holds bytes that are not UTF-8. Write it anew.")
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over the tokens (what, value, place) of a text; the last one is ("end", "", its length)."""

    def __init__(self, text: str):
        self.text, self.tokens, self.next, self.depth, self.captions = text, [], 0, 0, 0
        place, end = 0, len(text.rstrip())
        while place < end:
            found = TOKEN.match(text, place)
            if not found:
                place += len(text[place:]) - len(text[place:].lstrip())
                unclosed = text[place] in "'\""
                self.fail(place, "a quote is not closed" if unclosed else f"{text[place]!r} has no meaning here")
            what = found.lastgroup
            value, at = found[what], found.start(what)
            if what == "name" and value.lower() in WORDS:
                what, value = "word", value.lower()
            self.tokens.append((what, value, at))
            place = found.end()
        self.tokens.append(("end", "", end))

    def fail(self, place: int, problem: str) -> None:
        line = "".join(c if c.isprintable() else " " for c in self.text)
        start = max(0, place - 60)
        part = ("…" if start else "") + line[start : place + 40] + ("…" if place + 40 < len(line) else "")
        raise ValueError(f"the filter is wrong: {problem}\n  {part}\n  {' ' * (place - start + bool(start))}^")

    def expected(self, what: str) -> None:
        kind, value, place = self.tokens[self.next]
        self.fail(place, f"{what} is expected, not {'the end' if kind == 'end' else repr(value)}")

    def taken(self, *values: str) -> str:
        """The next token if it is one of these words or signs, which is then behind us."""
        kind, value, _ = self.tokens[self.next]
        if kind in ("word", "sign") and value in values:
            self.next += 1
            return value
        return ""

    def whole(self) -> Filter:
        found = self.joined("or")
        if self.tokens[self.next][0] != "end":
            self.expected("`and`, `or` or the end")
        return found

    def joined(self, word: str) -> Filter:
        parts = []
        while not parts or self.taken(word):
            parts.append(self.joined("and") if word == "or" else self.term())
        return parts[0] if len(parts) == 1 else BoolOp(word.upper(), tuple(parts))

    def term(self) -> Filter:
        place = self.tokens[self.next][2]
        if not (opened := self.taken("not", "(")):
            return self.test()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(place, f"more than {MAX_DEPTH} brackets and nots within each other")
        found = Not(self.term()) if opened == "not" else self.joined("or")
        if opened == "(" and not self.taken(")"):
            self.expected("`)`, `and` or `or`")
        self.depth -= 1
        return found

    def test(self) -> Filter:
        kind, column, place = self.tokens[self.next]
        if kind != "name":
            self.expected(f"a column ({', '.join(FILTER_COLUMNS)}), `not` or `(`")
        if column not in FILTER_COLUMNS:
            near = difflib.get_close_matches(column, FILTER_COLUMNS, 1, 0.5)
            known = f"did you mean {near[0]!r}?" if near else f"columns are {', '.join(FILTER_COLUMNS)}"
            self.fail(place, f"there is no column {column!r}: {known}")
        self.next += 1
        self.captions += column == CAPTION
        if self.captions > MAX_CAPTION_TESTS:
            self.fail(place, f"more than {MAX_CAPTION_TESTS} tests of `caption`; ask for less at a time")
        if self.taken("is"):
            negated = self.taken("not")
            if not self.taken("null"):
                self.expected("`null` or `not null`")
            none = column == CAPTION  # an image without captions
            found = Not(Comparison(column, "LIKE ?", ("%",))) if none else Comparison(column, "IS NULL", ())
        elif sign := self.taken(*OPERATORS):
            negated = sign in ("!=", "<>")
            found = Comparison(column, f"{OPERATORS[sign]} ?", (self.value(column),))
        else:
            negated = self.taken("not")
            found = self.listed(column) if self.taken("in") else self.like(column)
        return Not(found) if negated else found

    def listed(self, column: str) -> Comparison:
        values = []
        if not self.taken("("):
            self.expected("`(`")
        while not values or self.taken(","):
            values.append(self.value(column))
        if not self.taken(")"):
            self.expected("`,` or `)`")
        return Comparison(column, f"IN ({', '.join('?' * len(values))})", tuple(values))

    def like(self, column: str) -> Comparison:
        place = self.tokens[self.next][2]
        if not self.taken("like"):
            self.expected("one of = != < <= > >=, `like`, `in` or `is`")
        if column in NUMBERS:
            self.fail(place, f"{column} is a number; `like` is for texts")
        place = self.tokens[self.next][2]
        pattern = re.sub("%+", "%", str(self.value(column)))
        if pattern.count("%") > MAX_WILDCARDS:
            self.fail(place, f"more than {MAX_WILDCARDS} % in a pattern; split it with `and`")
        return Comparison(column, "LIKE ?", (pattern,))

    def value(self, column: str) -> str | int | float:
        kind, value, place = self.tokens[self.next]
        if kind not in ("number", "text"):
            self.expected("a number" if column in NUMBERS else "a text in quotes")
        if (kind == "number") != (column in NUMBERS):
            self.fail(place, f"{column} is a {'number, not a text' if kind == 'text' else 'text: put it in quotes'}")
        self.next += 1
        if kind == "text":
            return value[1:-1].replace(value[0] * 2, value[0])
        number = int(value) if value.lstrip("+-").isdigit() else float(value)
        if abs(number) >= 2**63:
            self.fail(place, "a number of more than 64 bits")
        return number
