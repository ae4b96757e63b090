"""`tern search` prints the answers of the searcher: as a table, as JSON, and as paths for other programs."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import build_app
from pipeline.search import ImagePart, PhotoPart, Query, Searcher, TextPart, VectorPart, make_photo_query
from tests.helpers.small_plan import small_plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def searcher(finished_pipeline):
    return Searcher(finished_pipeline.plan)


@pytest.fixture(scope="module")
def search(finished_pipeline):
    """Run `tern search` with options; return its result."""
    plan = str(small_plan(finished_pipeline.plan.workspace.parent))

    def run(*words, status=0, **options):
        result = CliRunner().invoke(build_app(), ["search", *map(str, words), "--plan", plan], **options)
        assert result.exit_code == status, result.output + repr(result.exception)
        return result

    return run


def read_ids(output):
    return [line.split()[2] for line in output.splitlines()]


def get_ids(answers):
    return [[hit.id for hit in answer.hits] for answer in answers]


def test_options_search_as_the_same_parts_do(search, searcher, finished_pipeline, tmp_path):
    images = finished_pipeline.features.dataset.images
    photo, like, box = images[0].path, images[4].id, (31.0, 12.0, 171.0, 132.0)
    vector = np.linspace(-1, 2, 32)
    np.save(tmp_path / "v.npy", vector)
    region = ["--box", "31,12,171,132"]
    text = TextPart("a dog")
    cases = [
        (["a dog", "--also", "a street", "--without", "a cat^2"], (text, TextPart("a street"), TextPart("a cat", -2))),
        (["--like", like, "--without", "a dog"], (ImagePart(like), TextPart("a dog", -1))),
        (["--like", like, *region], (ImagePart(like, box),)),
        (["--image", photo, "--for", "images"], (PhotoPart(photo),)),
        (
            ["--image", photo, "--image", images[1].path, "--also", "a dog"],
            (*map(PhotoPart, (photo, images[1].path)), text),
        ),
        (["--vector", tmp_path / "v.npy"], (VectorPart(vector),)),
    ]
    answers = searcher.search([Query(tuple(parts)) for _, parts in cases], k=5, offset=2)
    for (words, _), expected in zip(cases, get_ids(answers), strict=True):
        assert read_ids(search(*words, "-k", 5, "--offset", 2).stdout) == expected, words
    (captions,) = searcher.search([make_photo_query(photo)], k=5)
    assert read_ids(search("--image", photo, "-k", 5).stdout) == [hit.id for hit in captions.hits]
    own = search("--image", shutil.copy(photo, tmp_path / "copy.jpg"), "--for", "images", "-k", 1000, "--paths")
    assert len(own.stdout.splitlines()) == len(images) - 1
    assert str(photo) not in own.stdout


def test_json_has_all_of_a_hit(search, searcher):
    result = json.loads(search("a dog", "--json", "-k", 3, "--offset", 1).stdout)
    (answer,) = searcher.search([Query((TextPart("a dog"),))], k=3, offset=1)
    assert (result["number"], result["query"], result["note"]) == (1, "a dog", "")
    assert len(result["hits"]) == 3
    for rank, (found, hit) in enumerate(zip(result["hits"], answer.hits, strict=True), 2):
        assert found["rank"] == rank
        assert found["score"] == pytest.approx(hit.score, abs=1e-6)
        assert (found["id"], found["image_id"], found["path"]) == (hit.id, hit.image_id, str(hit.path))
        assert tuple(found["captions"]) == hit.captions
        assert [region["label"] for region in found["regions"]] == [region.label for region in hit.regions]
        assert [tuple(region["box"]) for region in found["regions"]] == [region.box for region in hit.regions]
        assert [(word["word"], word["region"]) for word in found["words"]] == [(w.word, w.region) for w in hit.words]
        assert [word.word for word in hit.words] == ["a", "dog"]


def test_why_prints_the_words_below_each_hit(search, searcher):
    lines = search("a dog", "--why", "-k", 2, "--min-probability", 0).stdout.splitlines()
    (answer,) = searcher.search([Query((TextPart("a dog"),))], k=2, min_probability=0)
    assert [line.split()[2] for line in lines[::2]] == [hit.id for hit in answer.hits]
    for line, hit in zip(lines[1::2], answer.hits, strict=True):
        for word in hit.words:
            assert f"{word.word} {100 * word.share:.0f} % ({word.label} {word.cosine:.2f}" in line
    sum_of_texts = search("a dog", "--also", "a cat", "--why", "-k", 2)
    assert "Only hits of one text query among images have words" in sum_of_texts.stderr
    assert len(sum_of_texts.stdout.splitlines()) == 2
    assert "--why adds lines to the table" in search("a dog", "--why", "--json", status=2).output


def test_many_queries_are_answered_one_by_one(search, searcher, tmp_path):
    texts = ["a dog", "two cats", "", "x" * 2001] + ["a street"] * 66 + ["a red car"]
    (tmp_path / "q.txt").write_text("\n".join(texts))
    result = search("--queries", tmp_path / "q.txt", "--json", "-k", 2, status=1)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["number"] for line in lines] == list(range(1, len(texts) + 1))
    assert [line["query"] for line in lines] == texts
    assert [number for number, line in enumerate(lines) if "error" in line] == [2, 3]
    assert "error: query 3: The query has 0 characters" in result.stderr
    expected = get_ids(searcher.search([Query((TextPart(text),)) for text in ("a dog", "two cats", "a red car")], 2))
    assert [[hit["id"] for hit in lines[n]["hits"]] for n in (0, 1, -1)] == expected
    table = search("--queries", "-", "--without", "a man", "-k", 2, input="a dog\ntwo cats\n").stdout.splitlines()
    assert [table[0], table[3]] == ["query 1  a dog - 0.5 a man", "query 2  two cats - 0.5 a man"]
    assert not search("--queries", "-", input="").stdout
    np.save(tmp_path / "rows.npy", np.stack([searcher.embed_text(text)[0] for text in texts[:2]]))
    rows = [
        json.loads(line) for line in search("--vector", tmp_path / "rows.npy", "--json", "-k", 2).stdout.splitlines()
    ]
    vectors = [Query((VectorPart(searcher.embed_text(text)[0]),)) for text in texts[:2]]  # they are not reranked
    assert [[hit["id"] for hit in row["hits"]] for row in rows] == get_ids(searcher.search(vectors, 2))
    refused = search("--vector", tmp_path / "rows.npy", "--gallery", tmp_path / "g.html", status=2)
    assert "--gallery shows the hits of one query" in refused.output


def test_paths_are_all_of_the_output(search, searcher, tmp_path):
    (answer,) = searcher.search([Query((TextPart("a dog"),))], k=3)
    paths = [str(hit.path) for hit in answer.hits]
    assert search("a dog", "--paths", "-k", 3).stdout == "".join(f"{path}\n" for path in paths)
    content = search("a dog", "--paths", "-0", "-k", 3).stdout_bytes
    assert content == b"".join(os.fsencode(path) + b"\0" for path in paths)
    (tmp_path / "found").mkdir()
    subprocess.run(["xargs", "-0", "cp", "-t", tmp_path / "found"], input=content, check=True)
    assert {path.name for path in (tmp_path / "found").iterdir()} == {Path(path).name for path in paths}
    captions = search("a dog", "--for", "captions", "--paths", "-k", 30).stdout.splitlines()
    assert len(captions) == len(set(captions)) < 30, "an image is printed once"


def test_paths_with_line_breaks_need_null_bytes(search, finished_pipeline, monkeypatch):
    evil = Path(os.fsdecode(b"/x/a\nb\xff.jpg"))
    monkeypatch.setattr(Searcher, "_get_path", lambda searcher, row: evil)
    assert search("a dog", "--paths", "-0").stdout_bytes == b"/x/a\nb\xff.jpg\0"
    result = search("a dog", "--paths", status=1)
    assert not result.stdout_bytes
    assert "has a line break. Pass -0" in str(result.exception)
    assert json.loads(search("a dog", "--json").stdout)["hits"][0]["path"] == str(evil)
    monkeypatch.setattr(Searcher, "_get_path", lambda searcher, row: Path())
    assert "has no paths of its images" in str(search("a dog", "--paths", "-0", status=1).exception)


def test_search_without_hits_succeeds_and_says_so(search):
    for words, message in [
        (["--where", "split = 'nothing'"], "No row matches the filter."),
        (["--where", "split = 'nothing'", "--offset", 5], "No more rows match the filter."),
        (["--offset", 5000], "There are no more hits."),
    ]:
        result = search("a dog", "--paths", *words)
        assert (result.stdout, result.stderr.strip()) == ("", message)
    assert json.loads(search("a dog", "--json", "--offset", 5000).stdout)["hits"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--like", "no such id"], "The index has no image 'no such id'"),
        (["--like", "scene-00000.jpg", "--box", "0,0,9999,9"], "is not a region of an image of"),
        (["--image", "gone.jpg"], "The photo gone.jpg does not exist"),
        (["--queries", "gone.txt"], "The file of queries gone.txt does not exist"),
        (["--vector", "gone.npy"], "The file of vectors gone.npy does not exist"),
        (["a dog", "--also", "a dog^0.5", "--without", "a dog^1.5"], "cancel out"),
        (["a dog", "--also", "a cat^101"], "The weight 101.0 is not a number from -100 to 100"),
        (["a dog", *["--also", "a cat"] * 16], "A query has 17 parts"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_query_that_cannot_be_answered_is_an_error(search, words, message):
    assert message in str(search(*words, status=1).exception)
