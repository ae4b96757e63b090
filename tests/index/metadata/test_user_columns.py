"""Columns of the user's own: filters select what plain Python selects; descriptions and exports have their types."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.config import ColumnType
from data.io import dump_columns, parse_columns
from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.exchange.export import export_index
from index.metadata import describe_columns, parse_filter
from index.metadata.schema import Row, compute_key
from index.search.index import Index
from tests.helpers.index_world import unit

TYPES: dict[str, ColumnType] = {"author": "text", "likes": "number", "tags": "texts", "taken": "date"}
VALUES: list[dict[str, Any]] = [
    {"author": "Ann", "likes": 3, "tags": ["beach", "dog's"], "taken": "2024-05-31"},
    {"author": 'it\'s "me"', "likes": 2.5, "tags": ["Beach"], "taken": "2024-05-31T23:59:59"},
    {"author": "Ünï%", "likes": -7, "taken": "2024-06-01T00:00:00Z"},
    {"likes": 0, "tags": ["city"], "taken": "2023-12-31"},
    {"author": "Bob"},
    {},
]
Test = Callable[[dict[str, Any]], bool]
FILTERS: dict[str, Test] = {
    "author = 'Ann'": lambda v: v.get("author") == "Ann",
    "author != 'Ann'": lambda v: v.get("author") != "Ann",
    "author = 'it''s \"me\"'": lambda v: v.get("author") == 'it\'s "me"',
    "author like 'ü%'": lambda v: False,  # only ASCII letters match in either case
    "author like 'a%'": lambda v: v.get("author", "").startswith("A"),
    "author in ('Ann', 'Bob')": lambda v: v.get("author") in ("Ann", "Bob"),
    "author is null": lambda v: "author" not in v,
    "likes >= 2.5": lambda v: v.get("likes", -99) >= 2.5,
    "likes < 0 or likes = 0": lambda v: v.get("likes", 99) <= 0,
    "likes in (3, -7)": lambda v: v.get("likes") in (3, -7),
    "tags = 'beach'": lambda v: "beach" in v.get("tags", []),
    "tags != 'beach'": lambda v: "beach" not in v.get("tags", []),
    "tags like 'BEACH'": lambda v: any(tag.lower() == "beach" for tag in v.get("tags", [])),
    "tags in ('city', 'dog''s')": lambda v: bool({"city", "dog's"} & {*v.get("tags", [])}),
    "tags is not null": lambda v: "tags" in v,
    "taken >= '2024-05-31'": lambda v: v.get("taken", "") >= "2024-05-31",
    "taken > '2024-05-31'": lambda v: v.get("taken", "")[:10] > "2024-05-31",
    "taken <= '2024-05-31'": lambda v: "" < v.get("taken", "")[:10] <= "2024-05-31",
    "taken < '2024-05-31'": lambda v: "" < v.get("taken", "") < "2024-05-31",
    "taken = '2024-05'": lambda v: v.get("taken", "").startswith("2024-05"),
    "taken != '2024'": lambda v: not v.get("taken", "").startswith("2024"),
    "taken = '2024-05-31T23:59:59'": lambda v: v.get("taken") == "2024-05-31T23:59:59",
    "taken in ('2023', '2024-06-01')": lambda v: v.get("taken", "-")[:4] == "2023" or "06-01" in v.get("taken", ""),
    "taken like '2024-%'": lambda v: v.get("taken", "").startswith("2024-"),
    "not (likes > 0 and tags = 'Beach')": lambda v: not (v.get("likes", 0) > 0 and "Beach" in v.get("tags", [])),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("columns") / "index"
    rng = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(len(VALUES))]
    rows = [Row("image", name, name, columns=dump_columns(values)) for name, values in zip(names, VALUES, strict=True)]
    vectors = {"image": Collection(names, unit(rng.standard_normal((len(names), 8))), rows)}
    build_index(
        IndexConfig(), IndexInputs(vectors, {"image": unit(rng.standard_normal((4, 8)))}, columns=TYPES), folder
    )
    return folder


@pytest.mark.parametrize("where", FILTERS)
def test_filter_of_a_column_selects_what_python_selects(where: str, root: Path) -> None:
    with Index.open(root) as index:
        hits = index.search(np.eye(1, 8, dtype=np.float32), len(VALUES), where=where)[0]
    expected = {f"{number}.jpg" for number, values in enumerate(VALUES) if FILTERS[where](values)}
    assert {hit.id for hit in hits} == expected
    assert all(parse_columns(hit.metadata.columns) == VALUES[int(hit.id[0])] for hit in hits)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("likes = '3'", "a number is expected"),
        ("likes like '3%'", "likes is a number"),
        ("author = 3", "must be in quotes"),
        ("taken >= 'May 2024'", "a date is expected, such as '2024'"),
        ("taken >= '2024-13'", "a date is expected"),
        ("lkes = 3", "did you mean 'likes'"),
        ("columns is null", "there is no column 'columns'"),
    ],
)
def test_filter_that_does_not_fit_a_column_is_an_error(where: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_filter(where, TYPES)


def test_columns_are_described_with_their_types_values_and_ranges(root: Path) -> None:
    with Index.open(root) as index:
        described = {column.name: column for column in describe_columns(index.collection("image").rows, None, TYPES)}
    assert (described["likes"].type, described["likes"].minimum, described["likes"].maximum) == ("number", -7, 3)
    taken = described["taken"]
    assert (taken.type, taken.minimum, taken.maximum) == ("date", "2023-12-31", "2024-06-01T00:00:00Z")
    assert dict(described["tags"].values) == {"beach": 1, "dog's": 1, "Beach": 1, "city": 1}
    assert described["author"].type == "text"
    assert len(described["author"].values) == 4


def test_exported_table_has_one_typed_column_for_each(root: Path, tmp_path: Path) -> None:
    export_index(root, tmp_path)
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "image.parquet").to_pylist()}
    assert "columns" not in rows["0.jpg"]
    for number, values in enumerate(VALUES):
        assert {name: rows[f"{number}.jpg"][name] for name in TYPES} == {name: values.get(name) for name in TYPES}


def test_key_does_not_depend_on_columns() -> None:
    row = Row("image", "a.jpg", "a.jpg", path="a.jpg", content_hash="00")
    assert compute_key(row) == compute_key(row._replace(columns='{"likes":3}'))
