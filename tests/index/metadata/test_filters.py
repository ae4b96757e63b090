"""Filters select what plain Python selects, errors show their position, and no text becomes part of SQL."""

import random
import re
import shutil
import sqlite3

import numpy as np
import pytest

from index.building.build import build_index
from index.building.update import update_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata import lookup as lookup_module
from index.metadata.filters import parse_filter
from index.metadata.lookup import FilterTimeoutError, limit_filter_time
from index.metadata.schema import COLUMNS, Row
from index.search import index as search_module
from index.search.index import Index
from tests.helpers.index_world import unit

CONFIG = IndexConfig(nlist=16, factory="IVF{nlist},SQ4", shards=3)
NASTY = "'; DROP TABLE items; --"
TEXTS = ("a dog", "A Dog runs", "two cats", "50% off_peak", "", NASTY, 'say "it"', "Ünï", None)


def scene(seed: int, count: int = 60) -> dict[str, list[Row]]:
    """Make image and caption rows with missing values, odd texts, and 0 to 3 captions per image."""
    rng = random.Random(seed)
    images, captions = [], []
    for i in range(count):
        split, width = rng.choice(["train", "test", None]), rng.choice([640, 500, 333, None])
        height, path = rng.choice([480, None]), rng.choice(["a/b.jpg", NASTY])
        image = Row("image", f"{i}.jpg", f"{i}.jpg", None, path, split, width, height, key=i)
        images.append(image)
        for k in range(rng.randrange(4)):
            text = rng.choice(TEXTS)
            captions.append(image._replace(kind="caption", id=f"{i}.jpg#{k}", text=text, key=1000 * (k + 1) + i))
    return {"image": images, "caption": captions}


def make_database(rows: list[Row]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE items ({', '.join(COLUMNS)})")
    marks = ", ".join("?" * len(COLUMNS))
    connection.executemany(f"INSERT INTO items VALUES ({marks})", [[getattr(row, c) for c in COLUMNS] for row in rows])
    return connection


def select_ids(text: str, kind: str, rows: dict[str, list[Row]]) -> set[str]:
    """Run a filter on SQLite tables of the rows; return the ids that match."""
    tables = {name: make_database(kind_rows) for name, kind_rows in rows.items()}

    def find_image_ids(where, values):
        return [name for (name,) in tables["caption"].execute(f"SELECT image_id FROM items WHERE {where}", values)]

    condition, values = parse_filter(text).sql(kind, find_image_ids)
    ids = {name for (name,) in tables[kind].execute(f"SELECT id FROM items WHERE {condition}", values)}
    assert all(t.execute("SELECT count(*) FROM items").fetchone()[0] == len(rows[n]) for n, t in tables.items())
    return ids


def lower_ascii(text):
    return "".join(c.lower() if c.isascii() else c for c in text)


def like(text, pattern):
    parts = [{"%": ".*", "_": "."}.get(c, re.escape(c)) for c in lower_ascii(pattern)]
    return re.fullmatch("".join(parts), lower_ascii(text), re.DOTALL) is not None


def quote(value, rng):
    if not isinstance(value, str):
        return str(value)
    mark = rng.choice("'\"")
    return mark + value.replace(mark, mark * 2) + mark


def random_test(rng, kind, captions):
    """Return a test as text, and as a function of a row that does not depend on the parser."""
    column = rng.choice(["split", "width", "height", "path", "id", "text", "caption"])
    if column in ("width", "height"):
        pool = [640, 500, 480, 333, 499.5]
    else:
        pool = ["test", "train", "a dog", "3.jpg", "a/b.jpg", NASTY, 'say "it"', "Ünï"]

    def values(row):
        if column != "caption":
            return [getattr(row, column)]
        return [row.text] if kind == "caption" else [c.text for c in captions if c.image_id == row.id]

    operator = rng.choice(["compare", "like", "in", "null"])
    if operator == "like" and column not in ("width", "height"):
        pattern = rng.choice(["%dog%", "%DOG", "a%", "_ dog", "50%", "%off_peak", "%ünï", "%Ünï%", "%;%"])
        word, check = f"LIKE {quote(pattern, rng)}", lambda v: like(v, pattern)
    elif operator == "in":
        subset = rng.sample(pool, rng.randint(1, 3))
        word, check = f"in ( {' , '.join(quote(v, rng) for v in subset)})", lambda v: v in subset
    elif operator == "null":
        word, check = "is not null", lambda v: True
        if rng.random() < 0.5:
            return f"{column} is NULL", lambda row: all(v is None for v in values(row))
    else:
        sign, value = rng.choice(["=", "==", "<", "<=", ">", ">="]), rng.choice(pool)
        order = {
            "<": lambda v: v < value,
            "<=": lambda v: v <= value,
            ">": lambda v: v > value,
            ">=": lambda v: v >= value,
        }
        word, check = f"{sign}{quote(value, rng)}", order.get(sign, lambda v: v == value)
        if sign in ("=", "==") and rng.random() < 0.4:
            return f"{column}!={quote(value, rng)}", lambda row: not any(v == value for v in values(row))
    if operator in ("like", "in") and word[0] in "Li" and rng.random() < 0.3:
        return f"{column} not {word}", lambda row: not any(v is not None and check(v) for v in values(row))
    return f"{column} {word}", lambda row: any(v is not None and check(v) for v in values(row))


def random_filter(rng, kind, captions, depth=3):
    shape = rng.choice(["test", "not", "and", "or"]) if depth else "test"
    if shape == "test":
        return random_test(rng, kind, captions)
    one, first = random_filter(rng, kind, captions, depth - 1)
    if shape == "not":
        return f"NOT({one})", lambda row: not first(row)
    other, second = random_filter(rng, kind, captions, depth - 1)
    both = (lambda row: first(row) and second(row)) if shape == "and" else (lambda row: first(row) or second(row))
    return f"({one}) {shape} ({other})", both


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_random_filters_select_what_plain_python_selects(kind):
    rng = random.Random(7)
    different = set()
    for seed in range(250):
        rows = scene(seed % 5)
        text, check = random_filter(rng, kind, rows["caption"])
        expected = {row.id for row in rows[kind] if check(row)}
        assert select_ids(text, kind, rows) == expected, text
        different.add(frozenset(expected))
    assert len(different) > 40


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("split = 'test' or split = 'train' and width = 640", "split = 'test' or (split = 'train' and width = 640)"),
        ("not split = 'test' and width = 640", "(not (split = 'test')) and width = 640"),
        ("width>=500 AND width<640", " width >= +500\nand width < 640.0 "),
        ("not not caption like '%%%dog%'", "caption like '%dog%'"),
    ],
)
def test_not_binds_before_and_and_before_or(text, same):
    assert select_ids(text, "image", scene(0)) == select_ids(same, "image", scene(0))


@pytest.mark.parametrize(
    ("text", "problem", "position"),
    [
        (
            "",
            "a column (id, image_id, text, path, split, width, height, content_hash, caption), `not` or `(` is",
            0,
        ),
        ("split", "one of = != < <= > >=, `like`, `in` or `is` is expected, not the end", 5),
        ("split = ", "a text in quotes is expected, not the end", 7),
        ("split = test", "a text must be in quotes: 'test'", 8),
        ("split = 'test", "a quote is not closed", 8),
        ("splt = 'test'", "there is no column 'splt': did you mean 'split'?", 0),
        ("key = 3", "there is no column 'key': columns are id, image_id, text, path, split, width, height", 0),
        ("with = 640", "there is no column 'with': did you mean 'width'? Columns are id, image_id, text, path", 0),
        ("photo = 1", "there is no column 'photo': columns are id, image_id, text, path, split, width", 0),
        ("width >= '640'", "a number is expected, not \"'640'\"", 9),
        ("split = 640", "a text must be in quotes: '640'", 8),
        ("width like '6%'", "width is a number; `like` is for texts", 6),
        ("width = 640px", "'6' has no meaning here", 8),
        ("width = 9223372036854775808", "a number of more than 64 bits", 8),
        ("width in ()", "a number is expected, not ')'", 10),
        ("width in (1, 2", "`,` or `)` is expected, not the end", 14),
        ("(width = 1", "`)`, `and` or `or` is expected, not the end", 10),
        ("width = 1)", "`and`, `or` or the end is expected, not ')'", 9),
        ("width = 1 width = 2", "`and`, `or` or the end is expected, not 'width'", 10),
        ("width is 3", "`null` or `not null` is expected, not '3'", 9),
        ("width = 1; DROP TABLE items", "';' has no meaning here", 9),
        ("split = 'a' -- x", "'-' has no meaning here", 12),
        ("caption like '%a%b%c%d%e%f%'", "more than 6 % in a pattern", 13),
        ("not " * 41 + "width = 1", "more than 40 nested brackets and nots", None),
        ("(" * 41 + "width = 1", "more than 40 nested brackets and nots", None),
    ],
)
def test_error_shows_its_position(text, problem, position):
    with pytest.raises(ValueError, match="The filter is not valid: ") as error:
        parse_filter(text)
    message, text_line, caret = str(error.value).split("\n")
    assert problem in message
    if position is not None:
        assert (text_line, caret) == (f"  {text}", " " * (position + 2) + "^")
    else:
        assert text_line[caret.index("^")] in "n("


def test_invalid_text_is_not_a_filter():
    with pytest.raises(ValueError, match="at most 2,000 characters, this one 4,010"):
        parse_filter("width = 1 " * 401)
    with pytest.raises(ValueError, match="more than 8 tests of `caption`; split the filter"):
        parse_filter(" or ".join(["caption is null"] * 9))
    assert parse_filter(" or ".join(["caption = 'a'"] * 8 + ["width = 1"]))
    with pytest.raises(ValueError, match="bytes that are not UTF-8"):
        parse_filter("split = '\udcff'")
    with pytest.raises(ValueError, match="The filter is not valid"):
        parse_filter("split = 'a'\x00")
    assert select_ids(" or ".join(["width = 1"] * 150), "image", scene(0)) == set()


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """An index with few bits per number, so that results of its codes differ from exact ones, and its rows."""
    rows, rng = scene(3, 900), np.random.default_rng(3)
    collections, queries = {}, {}
    for kind, kind_rows in rows.items():
        vectors = unit(rng.normal(size=(len(kind_rows), 24)))
        collections[kind] = Collection([row.id for row in kind_rows], vectors, kind_rows)
        queries[kind] = unit(rng.normal(size=(9, 24)))
    root = tmp_path_factory.mktemp("where")
    build_index(CONFIG, IndexInputs(collections, queries), root)
    return root, rows, collections, queries


@pytest.mark.parametrize("kind", ["image", "caption"])
@pytest.mark.parametrize("exact", [True, False])
def test_filtered_search_returns_k_hits_wherever_k_exist(kind, exact, indexed, monkeypatch):
    root, rows, collections, queries = indexed
    if not exact:
        monkeypatch.setattr(search_module, "EXACT_FILTER_ROWS", 0)
        monkeypatch.setattr(search_module, "EXACT_FILTER_FRACTION", 0)
    rng, counts = random.Random(1), set()
    with Index.open(root) as index:
        for _ in range(25):
            text, check = random_filter(rng, kind, rows["caption"])
            matching = {row.id for row in rows[kind] if check(row)}
            k = rng.choice([1, 10, 50])
            hits = index.search(queries[kind], k, kind, nprobe=1, where=text)
            assert index.count_matching(text, kind) == len(matching)
            counts.add(len(matching))
            for query, line in zip(queries[kind], hits, strict=True):
                assert len({hit.id for hit in line} & matching) == len(line) == min(k, len(matching)), text
                if exact and len(matching) <= search_module.EXACT_FILTER_ROWS:
                    vectors = dict(zip(collections[kind].ids, collections[kind].vectors, strict=True))
                    best = sorted((float(query @ vectors[name]) for name in matching), reverse=True)[:k]
                    np.testing.assert_allclose([hit.score for hit in line], best, atol=1e-6)
    assert len(counts) > 10
    assert min(counts) == 0


def test_filter_and_allowed_ids_combine(indexed):
    root, rows, _, queries = indexed
    allowed_ids = [row.id for row in rows["image"][:100]]
    with Index.open(root) as index:
        hits = index.search(queries["image"], 200, allowed_ids=allowed_ids, where="width = 640")
        expected = {row.id for row in rows["image"][:100] if row.width == 640}
        assert all({hit.id for hit in line} == expected for line in hits)
        with pytest.raises(ValueError, match="there is no column 'breadth'"):
            index.search(queries["image"], 3, where="breadth = 640")


@pytest.mark.parametrize("exact", [True, False])
def test_deleted_rows_and_their_captions_never_match(exact, indexed, tmp_path, monkeypatch):
    if not exact:
        monkeypatch.setattr(search_module, "EXACT_FILTER_ROWS", 0)
        monkeypatch.setattr(search_module, "EXACT_FILTER_FRACTION", 0)
    root, rows, collections, queries = indexed
    root = shutil.copytree(root, tmp_path / "index")
    is_kept = {"image": lambda row: row.key % 3 > 0, "caption": lambda row: "dog" not in (row.text or "").lower()}
    kept_collections = {}
    for kind, old in collections.items():
        positions = [i for i, row in enumerate(rows[kind]) if is_kept[kind](row)]
        kept_rows = [old.metadata[i] for i in positions]
        kept_collections[kind] = Collection([old.ids[i] for i in positions], old.vectors[positions], kept_rows)
    update_index(CONFIG, IndexInputs(kept_collections), root)
    with Index.open(root) as index:
        assert index.manifest.collections["image"].deleted.rows == len(rows["image"]) / 3
        assert index.count_matching("caption like '%dog%'") == index.count_matching("text like '%dog%'", "caption") == 0
        for where, is_wide in (("width = 640", True), ("not width = 640", False)):
            expected = {row.id for row in kept_collections["image"].metadata if (row.width == 640) == is_wide}
            hits = index.search(queries["image"], 900, where=where)
            assert all({hit.id for hit in line} == expected for line in hits)


@pytest.mark.parametrize("text", ["caption like '%\0'", "split like 'test\0zzz'", "id = 'a\0b'", "id in ('x', '\0')"])
def test_filter_with_nul_is_rejected_with_its_place(text):
    with pytest.raises(ValueError, match="NUL has no meaning here") as error:
        parse_filter(text)
    line, caret = str(error.value).split("\n")[1:]
    assert line[caret.index("^")] == " "
    assert caret.index("^") == 2 + text.index("\0")


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_filter_of_limited_time_is_an_error_and_is_not_remembered(kind, indexed, monkeypatch):
    monkeypatch.setattr(lookup_module, "PROGRESS_STEPS", 1)
    index, where = Index.open(indexed[0]), f"caption like '%d%o%g%' or width > {333 + len(kind)}"
    with limit_filter_time(0), pytest.raises(FilterTimeoutError, match="Use fewer tests with `like`"):
        index.count_matching(where, kind)
    with limit_filter_time(60):
        count = index.count_matching(where, kind)
    assert count == index.count_matching(f"({where})", kind) > 0, "without a limit"
    with limit_filter_time(0):  # rows by key are no filter
        assert index.get_metadata(["0.jpg"])
