"""Types and values of the columns of a dataset: the one place where records get their columns.

The readers collect the fields of each record as they are in its file; `convert_columns` makes them values of one
type per column.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.config import ColumnType
from data.datasets.column_values import convert_value, find_kind
from data.datasets.entry import Entry
from data.io.columns import MAX_COLUMNS, ColumnValue, is_column_name, make_column_name
from data.text import escape_invalid_text, printable

ARTICLES = {"number": "a number", "date": "a date", "text": "a text", "texts": "a list of texts"}


@dataclass
class _Field:
    """A field of the files, and what its values are."""

    name: str
    """Name of the column."""
    kinds: Counter[ColumnType] = field(default_factory=Counter)
    examples: dict[ColumnType, str] = field(default_factory=dict)
    """By kind, the first value and its record."""
    num_unusable: int = 0
    first_unusable: str = ""
    type: ColumnType = "text"

    def add(self, value: Any, record: str) -> None:
        """Count a value, unless it is missing."""
        kind = find_kind(value)
        if kind == "unusable":
            self.add_unusable(value, record)
        elif kind != "missing":
            self.kinds[kind] += 1
            self.examples.setdefault(kind, _describe(value, record))

    def add_unusable(self, value: Any, record: str) -> None:
        """Count a value that cannot be used."""
        self.num_unusable += 1
        self.first_unusable = self.first_unusable or _describe(value, record)

    def infer_type(self) -> ColumnType:
        """Return the type of all values, or `text`; a list among texts makes all of them lists."""
        if "texts" in self.kinds:
            return "texts"
        return next(iter(self.kinds)) if len(self.kinds) == 1 else "text"

    def describe_inference(self) -> str:
        """Say why a column whose values are mostly numbers or dates is one of texts; empty if it is not."""
        kind, count = self.kinds.most_common(1)[0]
        num_others = self.kinds.total() - count
        if kind in ("text", "texts") or self.type != "text" or 2 * count <= self.kinds.total() or not num_others:
            return ""
        example = next(text for other, text in self.examples.items() if other != kind)
        return (
            f"the column {self.name!r} is text, because {num_others:,} of its {self.kinds.total():,} values are not "
            f'{ARTICLES[kind]}, such as {example}. Set `{self.name} = "{kind}"` in [dataset.columns]'
        )


def convert_columns(
    entries: Sequence[Entry], declared: Mapping[str, str]
) -> tuple[dict[str, ColumnType], tuple[str, ...]]:
    """Replace the fields of all entries by values of one type per column. A value of another type is left out.

    Args:
        entries: Records of a dataset with the fields of their files; changed in place.
        declared: Type of columns, or `ignore`, by name.

    Returns:
        The types of the columns by name, and notes on what was chosen and left out.
    """
    if not declared and not any(entry.values for entry in entries):
        return {}, ()
    fields, notes = _find_fields(entries, declared)
    for column in fields.values():
        column.type = declared[column.name] if column.name in declared else column.infer_type()  # type: ignore[assignment]
    for entry in entries:
        if entry.values:
            entry.values = dict(_convert_entry(entry, fields))
    types = {column.name: column.type for column in fields.values() if column.kinds}
    return dict(sorted(types.items())), (*notes, *_describe_columns(fields, types))


def _find_fields(entries: Sequence[Entry], declared: Mapping[str, str]) -> tuple[dict[str, _Field], list[str]]:
    """Find the fields that are columns, by their names in the files; return notes on the others."""
    fields: dict[str, _Field] = {}
    left_out: dict[str, str] = {}  # name of a field, reason
    for entry in entries:
        for name, value in entry.values.items():
            if name not in fields and name not in left_out:
                column = make_column_name(name)
                if reason := _find_problem(column, fields):
                    left_out[name] = reason
                    continue
                if declared.get(column) == "ignore":
                    left_out[name] = ""
                    continue
                fields[name] = _Field(column)
            if name in fields:
                fields[name].add(value, str(entry.id))
    absent = _describe_absent(
        declared, {*(column.name for column in fields.values()), *map(make_column_name, left_out)}
    )
    problems = [f"{name[:60]!r} {reason}" for name, reason in left_out.items() if reason]
    more = f" and {len(problems) - 10:,} more" if len(problems) > 10 else ""
    return fields, [f"fields that are no columns: {', '.join(problems[:10])}{more}", *absent] if problems else absent


def _find_problem(column: str, fields: Mapping[str, _Field]) -> str:
    """Return why a field is no column, or an empty text."""
    if not column:
        return "(its name has no letters or digits)"
    if not is_column_name(column):
        return "(the index has its own, or it is a word of filters; rename it)"
    if any(known.name == column for known in fields.values()):
        return f"(another field is {column} too; rename it)"
    return f"(more than {MAX_COLUMNS})" if len(fields) >= MAX_COLUMNS else ""


def _describe_absent(declared: Mapping[str, str], names: set[str]) -> list[str]:
    """Return notes on declared columns that no record has."""
    known = ", ".join(sorted(name for name in names if name)) or "none"
    return [
        f"[dataset.columns] has {name!r}, but no record has such a field; the fields are {known}"
        for name in declared
        if name not in names
    ]


def _convert_entry(entry: Entry, fields: Mapping[str, _Field]) -> Iterator[tuple[str, ColumnValue]]:
    for name, value in entry.values.items():
        column = fields.get(name)
        if column is None or find_kind(value) in ("missing", "unusable"):
            continue
        try:
            yield column.name, convert_value(value, column.type)
        except ValueError:
            column.add_unusable(value, str(entry.id))


def _describe(value: Any, record: str) -> str:
    return printable(escape_invalid_text(f"{str(value)[:40]!r} of {record}"))


def _describe_columns(fields: Mapping[str, _Field], types: Mapping[str, ColumnType]) -> Iterator[str]:
    """Yield a note that lists the columns, and one per column whose values were left out or read as texts."""
    if types:
        yield f"columns: {', '.join(f'{name} ({kind})' for name, kind in sorted(types.items()))}"
    for column in fields.values():
        if column.num_unusable:
            noun = "value is" if column.num_unusable == 1 else "values are"
            yield (
                f"column {column.name!r}: {column.num_unusable:,} {noun} left out, the first "
                f"{column.first_unusable}: not {ARTICLES[column.type]}"
            )
        if column.kinds and (note := column.describe_inference()):
            yield note
