"""`tern duplicates`: text, JSON and page of an index without a plan; what it writes and refuses."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata.schema import Row
from index.quality import duplicates as duplicates_module
from index.search.near_copies import NEAR_COPY_COSINE
from pipeline.cli import duplicates as command_module
from pipeline.cli.app import build_app
from tests.helpers.index_world import unit

ROWS = [
    Row("image", "big.png", "big.png", path="big.png", split="train", width=60, height=40, content_hash="h1"),
    Row("image", "same.png", "same.png", path="same.png", split="train", width=60, height=40, content_hash="h1"),
    Row("image", "gone.png", "gone.png", path="gone.png", split="test", width=6, height=4, content_hash="h2"),
    Row("image", "<other>.png", "<other>.png", path="other.png", split="val", width=60, height=40, content_hash="h3"),
    Row("image", "other-copy.png", "other-copy.png", path="../outside.png", split="val", width=9, height=9),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder with an index of copies in `index`, and `images`, from which the file of one image is gone."""
    root = tmp_path_factory.mktemp("copies")
    vectors = unit(np.eye(8)[[0, 0, 0, 1, 1]] + 0.01 * np.eye(8)[[2, 2, 3, 4, 5]])
    images = Collection([row.id for row in ROWS], vectors, ROWS)
    build_index(IndexConfig(nlist=1), IndexInputs({"image": images}, {"image": vectors}, {}), root / "index")
    (root / "images").mkdir()
    for name in ("big.png", "same.png", "other.png"):
        Image.new("RGB", (60, 40), "red").save(root / "images" / name)
    return root


def run(world, *options):
    """Run the command; every file but the page that it writes stays as it is."""
    arguments = ["duplicates", "--index", str(world / "index"), "--image-folder", str(world / "images"), *options]
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*") if path.is_file()}
    result = CliRunner(env={"COLUMNS": "300"}).invoke(build_app("duplicates"), arguments)
    after = {path: path.stat().st_mtime_ns for path in world.rglob("*") if path.is_file() and path.suffix != ".html"}
    assert after == {path: time for path, time in before.items() if path.suffix != ".html"}
    return result


def test_json_lists_groups_with_leaks_first_and_files_that_are_gone(world):
    result = run(world, "--json")
    groups = [json.loads(line) for line in result.stdout.splitlines()]
    assert [[image["id"] for image in group["images"]] for group in groups] == [
        ["big.png", "same.png", "gone.png"],
        ["<other>.png", "other-copy.png"],
    ]
    assert [group["splits"] for group in groups] == [["test", "train"], ["val"]]
    assert [group["is_leak"] for group in groups] == [True, False]
    assert [image["is_exact"] for image in groups[0]["images"]] == [True, True, False]
    sizes = [[image["size_bytes"] for image in group["images"]] for group in groups]
    size = (world / "images" / "big.png").stat().st_size
    assert sizes == [[size, size, None], [size, None]], "a path outside of the folder is not read"
    assert "2 groups with 3 copies, 1 leaks" in result.stderr


def test_leaks_and_threshold_select_groups(world):
    assert len(run(world, "--json", "--leaks").stdout.splitlines()) == 1
    text = run(world, "--threshold", "1").stdout
    assert text.splitlines()[0] == "group 1  2 images, equal content"
    assert "same.png  same content, 60 x 40 pixels, 1 kB, split train" in text
    assert run(world, "--threshold", "1", "--leaks").stdout == ""


def test_page_has_the_pictures_and_escapes_names(world):
    page = world / "copies.html"
    assert run(world, "--output", str(page), "--limit", "1", "--force").exit_code == 0
    content = page.read_text()
    assert content.count("<figure") == content.count("data:image/jpeg;base64,") == 3
    assert "3 images, near copies, in the splits test and train" in content
    assert "1 more groups are not shown" in content
    run(world, "--output", str(page), "--force")
    content = page.read_text()
    assert content.count("<figure") == 5
    assert "&lt;other&gt;.png" in content
    assert "<other>" not in content
    assert "already exists" in str(run(world, "--output", str(page)).exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "0.4"], "greater than or equal to"),
        (["--threshold", "1.1"], "less than or equal to 1"),
        (["--threshold", "near"], "parse string as a number"),
        (["--limit", "0"], "greater than or equal to 1"),
        (["--version", "9"], "There is no version 9"),
        (["--output", "copies.pdf"], "does not end in .html"),
        (["--plan", "flickr8k"], "--index is searched without a plan"),
    ],
)
def test_wrong_option_is_refused(options, message, world):
    result = run(world, *options)
    assert result.exit_code != 0
    assert message in f"{result.exception} {' '.join(result.output.split())}"


def test_defaults_of_the_command_are_those_of_the_index():
    assert command_module.DEFAULT_THRESHOLD == NEAR_COPY_COSINE
    assert command_module.MIN_THRESHOLD == duplicates_module.MIN_THRESHOLD
