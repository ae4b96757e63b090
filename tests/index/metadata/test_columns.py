"""The columns of a collection: those that have values, with ranges, lists and counts, without deleted rows."""

from collections import Counter

import numpy as np
import pytest

from index.metadata.columns import MAX_VALUES, Column, describe_columns, sample_rows
from index.metadata.lookup import MetadataLookup
from index.metadata.schema import Row, compute_key
from index.metadata.tables import build_table, write_lookup

SPLITS = ("train", "train", "test", "o'brien")


@pytest.fixture
def make_lookup(tmp_path):
    def make(rows, deleted=(), num_shards=2):
        paths = [tmp_path / f"{number}.sqlite" for number in range(num_shards)]
        for number, path in enumerate(paths):
            path.unlink(missing_ok=True)
            write_lookup(path, build_table("image", rows[number::num_shards]))
        keys = np.array(sorted(compute_key(row) for row in deleted), np.int64)
        return MetadataLookup(paths, keys)

    return make


@pytest.fixture
def rows():
    return [
        Row("image", f"{number}.jpg", split=SPLITS[number % 4], width=100 + number, content_hash=f"{number:03d}")
        for number in range(4 * MAX_VALUES)
    ]


def test_columns_have_the_values_and_ranges_of_live_rows(make_lookup, rows):
    deleted = [rows[0], rows[-1], *rows[3::4]]  # the smallest and the largest width, and all rows of one split
    live = [row for row in rows if row not in deleted]
    lookup = make_lookup(rows, deleted)
    expected = (
        Column("id", "text"),
        Column("split", "text", tuple(Counter(row.split for row in live).most_common())),
        Column("width", "number", minimum=min(row.width for row in live), maximum=max(row.width for row in live)),
        Column("content_hash", "text"),
    )
    assert describe_columns(lookup, None) == expected, "columns without any value are left out"
    assert describe_columns(lookup, lookup) == (*expected, Column("caption", "text"))


@pytest.mark.parametrize(("num_values", "is_listed"), [(MAX_VALUES, True), (MAX_VALUES + 1, False)])
def test_values_of_all_shards_together_are_few_or_not_listed(make_lookup, num_values, is_listed):
    rows = [Row("image", str(number), split=str(number % num_values)) for number in range(2 * num_values)]
    (split,) = (column for column in describe_columns(make_lookup(rows), None) if column.name == "split")
    assert len(split.values) == (num_values if is_listed else 0)


def test_sample_is_that_of_the_smallest_keys_of_live_rows_of_the_splits(make_lookup, rows):
    by_key = sorted(rows, key=compute_key)
    lookup = make_lookup(rows, by_key[:3])
    assert [row.id for row in sample_rows(lookup, 5)] == [row.id for row in by_key[3:8]]
    held_out = [row.id for row in by_key[3:] if row.split in ("test", "o'brien")]
    assert [row.id for row in sample_rows(lookup, 9, ("test", "o'brien"))] == held_out[:9]
    assert len(sample_rows(lookup, 10_000)) == len(rows) - 3
