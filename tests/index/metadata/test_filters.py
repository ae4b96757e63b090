"""Filters over metadata: SQL that answers as plain Python would, places of errors, and no text that becomes SQL."""

import random
import re
import shutil
import sqlite3

import numpy as np
import pytest

from index.building.build import build_index
from index.building.update import update_index
from index.collection import Collection
from index.config import IndexConfig
from index.metadata.filters import parse_filter
from index.metadata.schema import COLUMNS
from index.search import index as search_module
from index.search.index import Index

NASTY = "'; DROP TABLE items; --"
TEXTS = ("a dog", "A Dog runs", "two cats", "50% off_peak", "", NASTY, 'say "it"', "Ünï", None)


def scene(seed: int, count: int = 60) -> dict[str, list[dict]]:
    """Image and caption rows with missing values, odd texts, 0 to 3 captions an image."""
    draw = random.Random(seed)
    images, captions = [], []
    for i in range(count):
        row = dict.fromkeys(COLUMNS) | {"key": i, "kind": "image", "id": f"{i}.jpg", "image_id": f"{i}.jpg"}
        row |= {"split": draw.choice(["train", "test", None]), "width": draw.choice([640, 500, 333, None])}
        images.append(row | {"height": draw.choice([480, None]), "path": draw.choice(["a/b.jpg", NASTY])})
        for k in range(draw.randrange(4)):
            said = {"key": 1000 * (k + 1) + i, "kind": "caption", "id": f"{i}.jpg#{k}", "text": draw.choice(TEXTS)}
            captions.append(images[-1] | said)
    return {"image": images, "caption": captions}


def database(rows: list[dict]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE items ({', '.join(COLUMNS)})")
    marks = ", ".join("?" * len(COLUMNS))
    connection.executemany(f"INSERT INTO items VALUES ({marks})", [[row[c] for c in COLUMNS] for row in rows])
    return connection


def selected(text: str, kind: str, rows: dict[str, list[dict]]) -> set[str]:
    tables = {name: database(some) for name, some in rows.items()}
    told = lambda where, values: [  # noqa: E731
        image for (image,) in tables["caption"].execute(f"SELECT image_id FROM items WHERE {where}", values)
    ]
    condition, values = parse_filter(text).sql(kind, told)
    found = {name for (name,) in tables[kind].execute(f"SELECT id FROM items WHERE {condition}", values)}
    assert all(t.execute("SELECT count(*) FROM items").fetchone()[0] == len(rows[n]) for n, t in tables.items())
    return found


def like(text, pattern):
    lower = lambda s: "".join(c.lower() if c.isascii() else c for c in s)  # noqa: E731
    parts = [{"%": ".*", "_": "."}.get(c, re.escape(c)) for c in lower(pattern)]
    return re.fullmatch("".join(parts), lower(text), re.DOTALL) is not None


def quoted(value, draw):
    if not isinstance(value, str):
        return str(value)
    mark = draw.choice("'\"")
    return mark + value.replace(mark, mark * 2) + mark


def a_test(draw, kind, captions):
    """A test as text, and as a function of a row that was written without a look at the parser."""
    column = draw.choice(["split", "width", "height", "path", "id", "text", "caption"])
    if column in ("width", "height"):
        pool = [640, 500, 480, 333, 499.5]
    else:
        pool = ["test", "train", "a dog", "3.jpg", "a/b.jpg", NASTY, 'say "it"', "Ünï"]

    def values(row):
        if column != "caption":
            return [row[column]]
        return [row["text"]] if kind == "caption" else [c["text"] for c in captions if c["image_id"] == row["id"]]

    how = draw.choice(["compare", "like", "in", "null"])
    if how == "like" and column not in ("width", "height"):
        pattern = draw.choice(["%dog%", "%DOG", "a%", "_ dog", "50%", "%off_peak", "%ünï", "%Ünï%", "%;%"])
        word, check = f"LIKE {quoted(pattern, draw)}", lambda v: like(v, pattern)
    elif how == "in":
        some = draw.sample(pool, draw.randint(1, 3))
        word, check = f"in ( {' , '.join(quoted(v, draw) for v in some)})", lambda v: v in some
    elif how == "null":
        word, check = "is not null", lambda v: True
        if draw.random() < 0.5:
            return f"{column} is NULL", lambda row: all(v is None for v in values(row))
    else:
        sign, value = draw.choice(["=", "==", "<", "<=", ">", ">="]), draw.choice(pool)
        order = {
            "<": lambda v: v < value,
            "<=": lambda v: v <= value,
            ">": lambda v: v > value,
            ">=": lambda v: v >= value,
        }
        word, check = f"{sign}{quoted(value, draw)}", order.get(sign, lambda v: v == value)
        if sign in ("=", "==") and draw.random() < 0.4:
            return f"{column}!={quoted(value, draw)}", lambda row: not any(v == value for v in values(row))
    if how in ("like", "in") and word[0] in "Li" and draw.random() < 0.3:
        return f"{column} not {word}", lambda row: not any(v is not None and check(v) for v in values(row))
    return f"{column} {word}", lambda row: any(v is not None and check(v) for v in values(row))


def a_filter(draw, kind, captions, depth=3):
    shape = draw.choice(["test", "not", "and", "or"]) if depth else "test"
    if shape == "test":
        return a_test(draw, kind, captions)
    one, first = a_filter(draw, kind, captions, depth - 1)
    if shape == "not":
        return f"NOT({one})", lambda row: not first(row)
    other, second = a_filter(draw, kind, captions, depth - 1)
    both = (lambda row: first(row) and second(row)) if shape == "and" else (lambda row: first(row) or second(row))
    return f"({one}) {shape} ({other})", both


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_random_filters_choose_what_plain_python_chooses(kind):
    draw = random.Random(7)
    different = set()
    for seed in range(250):
        rows = scene(seed % 5)
        text, check = a_filter(draw, kind, rows["caption"])
        expected = {row["id"] for row in rows[kind] if check(row)}
        assert selected(text, kind, rows) == expected, text
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
    assert selected(text, "image", scene(0)) == selected(same, "image", scene(0))


@pytest.mark.parametrize(
    ("text", "problem", "place"),
    [
        ("", "a column (id, image_id, text, path, split, width, height, source, caption), `not` or `(` is expected", 0),
        ("split", "one of = != < <= > >=, `like`, `in` or `is` is expected, not the end", 5),
        ("split = ", "a text in quotes is expected, not the end", 7),
        ("split = test", "a text in quotes is expected, not 'test'", 8),
        ("split = 'test", "a quote is not closed", 8),
        ("splt = 'test'", "there is no column 'splt': did you mean 'split'?", 0),
        ("key = 3", "there is no column 'key': columns are id,", 0),
        ("width >= '640'", "width is a number, not a text", 9),
        ("split = 640", "split is a text: put it in quotes", 8),
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
        ("not " * 41 + "width = 1", "more than 40 brackets and nots within each other", None),
        ("(" * 41 + "width = 1", "more than 40 brackets and nots within each other", None),
    ],
)
def test_an_error_shows_its_place(text, problem, place):
    with pytest.raises(ValueError, match="the filter is wrong: ") as error:
        parse_filter(text)
    first, shown, caret = str(error.value).split("\n")
    assert problem in first
    if place is not None:
        assert (shown, caret) == (f"  {text}", " " * (place + 2) + "^")
    else:
        assert shown[caret.index("^")] in "n("


def test_what_is_no_filter_at_all_is_refused():
    with pytest.raises(ValueError, match="at most 2,000 characters, this one 4,010"):
        parse_filter("width = 1 " * 401)
    with pytest.raises(ValueError, match="more than 8 tests of `caption`; ask for less at a time"):
        parse_filter(" or ".join(["caption is null"] * 9))
    assert parse_filter(" or ".join(["caption = 'a'"] * 8 + ["width = 1"]))
    with pytest.raises(ValueError, match="bytes that are not UTF-8"):
        parse_filter("split = '\udcff'")
    with pytest.raises(ValueError, match="the filter is wrong"):
        parse_filter("split = 'a'\x00")
    assert selected(" or ".join(["width = 1"] * 150), "image", scene(0)) == set()


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """An index of few bits a number and its rows: an answer from the codes differs from the exact one."""
    rows, draw = scene(3, 900), np.random.default_rng(3)
    collections, queries = {}, {}
    for kind, some in rows.items():
        vectors = unit(draw.normal(size=(len(some), 24)))
        content = [{c: v for c, v in row.items() if c not in ("key", "kind")} for row in some]
        collections[kind] = Collection([row["id"] for row in some], vectors, content)
        queries[kind] = unit(draw.normal(size=(9, 24)))
    root = tmp_path_factory.mktemp("where")
    build_index(IndexConfig(nlist=16, factory="IVF{nlist},SQ4", shards=3), collections, queries, root)
    return root, rows, collections, queries


@pytest.mark.parametrize("kind", ["image", "caption"])
@pytest.mark.parametrize("few", [True, False])
def test_a_filtered_search_gives_k_results_wherever_k_exist(kind, few, indexed, monkeypatch):
    root, rows, collections, queries = indexed
    if not few:
        monkeypatch.setattr(search_module, "EXACT_FILTER_ROWS", 0)
        monkeypatch.setattr(search_module, "FEW_PART", 0)
    draw, counts = random.Random(1), set()
    with Index.open(root) as index:
        for _ in range(25):
            text, check = a_filter(draw, kind, rows["caption"])
            taken = {row["id"] for row in rows[kind] if check(row)}
            k = draw.choice([1, 10, 50])
            hits = index.search(queries[kind], k, kind, nprobe=1, where=text)
            assert index.count_matching(text, kind) == len(taken)
            counts.add(len(taken))
            for query, line in zip(queries[kind], hits, strict=True):
                assert len({hit.id for hit in line} & taken) == len(line) == min(k, len(taken)), text
                if few and len(taken) <= search_module.EXACT_FILTER_ROWS:
                    vectors = dict(zip(collections[kind].ids, collections[kind].vectors, strict=True))
                    best = sorted((float(query @ vectors[name]) for name in taken), reverse=True)[:k]
                    np.testing.assert_allclose([hit.score for hit in line], best, atol=1e-6)
    assert len(counts) > 10
    assert min(counts) == 0


def test_a_filter_and_ids_to_keep_go_together(indexed):
    root, rows, _, queries = indexed
    keep = [row["id"] for row in rows["image"][:100]]
    with Index.open(root) as index:
        hits = index.search(queries["image"], 200, allowed_ids=keep, where="width = 640")
        expected = {row["id"] for row in rows["image"][:100] if row["width"] == 640}
        assert all({hit.id for hit in line} == expected for line in hits)
        with pytest.raises(ValueError, match="there is no column 'breadth'"):
            index.search(queries["image"], 3, where="breadth = 640")


@pytest.mark.parametrize("few", [True, False])
def test_dead_rows_never_come_nor_do_their_captions_count(few, indexed, tmp_path, monkeypatch):
    if not few:
        monkeypatch.setattr(search_module, "EXACT_FILTER_ROWS", 0)
        monkeypatch.setattr(search_module, "FEW_PART", 0)
    root, rows, collections, queries = indexed
    root = shutil.copytree(root, tmp_path / "index")
    stays = {"image": lambda row: row["key"] % 3 > 0, "caption": lambda row: "dog" not in (row["text"] or "").lower()}
    left = {}
    for kind, old in collections.items():
        kept = [i for i, row in enumerate(rows[kind]) if stays[kind](row)]
        left[kind] = Collection([old.ids[i] for i in kept], old.vectors[kept], [old.metadata[i] for i in kept])
    update_index(IndexConfig(nlist=16, factory="IVF{nlist},SQ4", shards=3), left, root)
    with Index.open(root) as index:
        assert index.manifest["collections"]["image"]["deleted"]["rows"] == len(rows["image"]) / 3
        assert index.count_matching("caption like '%dog%'") == index.count_matching("text like '%dog%'", "caption") == 0
        for where, wide in (("width = 640", True), ("not width = 640", False)):
            expected = {row["id"] for row in left["image"].metadata if (row["width"] == 640) == wide}
            found = index.search(queries["image"], 900, where=where)
            assert all({hit.id for hit in line} == expected for line in found)
