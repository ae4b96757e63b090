"""Options of `tern search`: contradictions are refused before any work, and options become the queries they say."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import build_app
from pipeline.cli.search_queries import QueryOptions, describe_query, iter_queries, open_vectors, parse_box
from pipeline.search import ImagePart, PhotoPart, Query, TextPart, VectorPart

NO_OPTIONS = {
    **dict.fromkeys(("text", "box", "queries", "vector", "target")),
    **dict.fromkeys(("images", "likes", "also", "without"), ()),
}
PHOTO = ["--image", "photo.jpg"]


def make_options(**changes) -> QueryOptions:
    return QueryOptions(**(NO_OPTIONS | changes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Pass a text query, --image, --like, --vector or --queries."),
        (["--also", "a dog"], "Pass a text query, --image, --like, --vector or --queries."),
        (["--without", "a dog"], "Pass a text query, --image, --like, --vector or --queries."),
        (["--box", "1,2,30,40"], "Pass a text query, --image, --like, --vector or --queries."),
        (["a dog", "--queries", "q.txt"], "Pass a text query or --queries, not both."),
        (["--vector", "v.npy", "--queries", "q.txt"], "Pass --vector or --queries, not both."),
        (["a dog", "--box", "1,2,30,40"], "--box needs exactly one --image or --like"),
        ([*PHOTO, "--like", "x", "--box", "1,2,30,40"], "--box needs exactly one --image or --like"),
        ([*PHOTO, "--box", "1,2,30"], "--box is '1,2,30'. Pass X1,Y1,X2,Y2"),
        ([*PHOTO, "--box", "a,b,c,d"], "--box is 'a,b,c,d'. Pass X1,Y1,X2,Y2"),
        (["a dog", "--for", "image"], "--for is 'image'. Pass images or captions."),
        (["a dog", "--json", "--paths"], "Pass only one of --json, --paths and --gallery."),
        (["a dog", "--json", "--gallery", "x.html"], "Pass only one of --json, --paths and --gallery."),
        (["a dog", "-0"], "--null ends the paths of --paths. Pass --paths too."),
        (["a dog", "--model", "m"], "--model and --image-folder belong to --index. Pass --index too."),
        (["a dog", "--image-folder", "m"], "--model and --image-folder belong to --index. Pass --index too."),
        (["a dog", "--index", "i"], "--index is searched without a plan. Leave out --plan and --set."),
        (["a dog", "-k", "0"], "Invalid value for '-k'"),
        (["a dog", "--offset", "-1"], "Invalid value for '--offset'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_contradicting_options_are_refused_before_the_plan_is_read(words, message):
    result = CliRunner(env={"COLUMNS": "300"}).invoke(build_app(), ["search", *words, "--plan", "no-such-plan"])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"text": "a dog"}, Query((TextPart("a dog"),))),
        ({"text": "a dog", "target": "captions"}, Query((TextPart("a dog"),), "caption")),
        ({"images": (Path("p.jpg"),)}, Query((PhotoPart(Path("p.jpg")),), "caption")),
        ({"images": (Path("p.jpg"),), "target": "images"}, Query((PhotoPart(Path("p.jpg")),))),
        (
            {"images": (Path("p.jpg"),), "box": "1,2.5,30,40", "also": ("at night",)},
            Query((PhotoPart(Path("p.jpg"), (1, 2.5, 30, 40)), TextPart("at night"))),
        ),
        ({"likes": ("a", "b"), "without": ("x",)}, Query((ImagePart("a"), ImagePart("b"), TextPart("x", -1)))),
        ({"text": "a", "without": ("x",)}, Query((TextPart("a"), TextPart("x", -0.5)))),
        (
            {"text": "a", "also": ("b^1.5", "c^", "^2", "d^x"), "without": ("e f^0.25 ",)},
            Query(
                (
                    *(TextPart("a"), TextPart("b", 1.5), TextPart("c^"), TextPart("^2"), TextPart("d^x")),
                    TextPart("e f", -0.25),
                )
            ),
        ),
        ({"text": "2^10"}, Query((TextPart("2^10"),))),
    ],
)
def test_options_become_parts_and_target(changes, expected):
    options = make_options(**changes)
    options.check()
    assert list(iter_queries(options, None)) == [expected]


def test_weight_of_an_avoided_text_counts_lines_of_a_file_as_text(tmp_path):
    (tmp_path / "q.txt").write_bytes("\ufeffa dog\r\n\nzwei Hündchen".encode())
    options = make_options(queries=str(tmp_path / "q.txt"), without=("x",))
    avoided = TextPart("x", -0.5)
    assert [query.parts for query in iter_queries(options, None)] == [
        (TextPart(text), avoided) for text in ("a dog", "", "zwei Hündchen")
    ]


def test_rows_of_vectors_are_queries(tmp_path):
    rows = np.arange(6, dtype="f2").reshape(2, 3)
    np.save(tmp_path / "rows.npy", rows)
    options = make_options(vector=tmp_path / "rows.npy", text="a dog")
    queries = list(iter_queries(options, open_vectors(tmp_path / "rows.npy")))
    assert [type(part) for query in queries for part in query.parts] == [TextPart, VectorPart] * 2
    np.testing.assert_array_equal([query.parts[1].vector for query in queries], rows)
    assert len(list(iter_queries(options, rows[0]))) == 1


@pytest.mark.parametrize(
    "values", [np.float32(1), np.ones((1, 2, 3)), np.ones((0, 3)), np.array(["a"]), np.ones(2, "c8")]
)
def test_vectors_of_another_form_are_rejected(tmp_path, values):
    np.save(tmp_path / "v.npy", values)
    with pytest.raises(ValueError, match=r"v\.npy has values .* of shape .*\. Pass one vector"):
        open_vectors(tmp_path / "v.npy")


def test_pickled_and_damaged_vectors_are_rejected(tmp_path):
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "short.npy").write_bytes((tmp_path / "pickle.npy").read_bytes()[:40])
    for name in ("pickle", "text", "short"):
        with pytest.raises(ValueError, match=rf"{name}\.npy"):
            open_vectors(tmp_path / f"{name}.npy")


@pytest.mark.parametrize("content", [b"a dog\nb\xff\n", b"\xff\xfea\0 \0d\0"])
def test_lines_that_are_not_text_are_rejected(tmp_path, monkeypatch, content):
    (tmp_path / "q.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"q\.txt is not UTF-8 text"):
        list(iter_queries(make_options(queries=str(tmp_path / "q.txt")), None))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="latin-1"))
    with pytest.raises(ValueError, match="standard input is not UTF-8 text"):
        list(iter_queries(make_options(queries="-"), None))


def test_overlong_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("data.text.MAX_LINE_CHARACTERS", 100)
    (tmp_path / "q.txt").write_text("a dog\n" + "x" * 1000)
    with pytest.raises(ValueError, match=r"in .*q\.txt, line 2\. Pass one query per line"):
        list(iter_queries(make_options(queries=str(tmp_path / "q.txt")), None))


def test_query_is_described_in_one_line():
    box = parse_box("1,2,30,40.5")
    parts = (TextPart("a dog"), PhotoPart(Path("x/p.jpg"), box), PhotoPart(b"bytes", weight=2), TextPart("b", -0.5))
    assert describe_query(Query(parts)) == "a dog + p.jpg [1,2,30,40.5] + 2 photo - 0.5 b"
    assert describe_query(Query((ImagePart("x"), VectorPart(np.ones(2), -1)))) == "like x - vector"
