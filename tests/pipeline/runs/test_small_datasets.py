"""Datasets of 2 to 10 images by the plan of the README: an answer at the end, or an error before the extraction."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.store import Store
from pipeline.cli.app import build_app
from pipeline.runs import ALL_STAGES
from tests.helpers.image_bytes import picture, saved
from tests.helpers.small_plan import DEMO_EXTRACTORS, TINY_TRAINING

PLAN = """
workspace = "{root}/ws"
workers = 1

[dataset]
name = "mine"
format = "folder"
annotations = "{root}/photos/captions.csv"
images = "{root}/photos"
"""


def album(root: Path, num_images: int, splits: tuple[str, ...] = (), captions: int | None = None) -> str:
    """Write an album and its plan; return the path of the plan."""
    (root / "photos").mkdir()
    with open(root / "photos/captions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", *(["split"] if splits else [])])
        for number in range(num_images):
            name = f"P10{number:04d}.jpg"
            (root / "photos" / name).write_bytes(saved("JPEG", picture(number, 90, 120)))
            if captions is None or number < captions:
                writer.writerow([name, f"picture number {number} of the album", *splits[number : number + 1]])
    (root / "plan.toml").write_text(PLAN.format(root=root) + DEMO_EXTRACTORS + TINY_TRAINING)
    return str(root / "plan.toml")


def run(*arguments: str):
    return CliRunner().invoke(build_app(), arguments)


@pytest.mark.slow
@pytest.mark.parametrize("splits", [(), (*["train"] * 9, "val")], ids=["drawn", "one held-out caption"])
def test_album_of_ten_images_is_trained_indexed_and_searched(tmp_path: Path, splits: tuple[str, ...]) -> None:
    plan = album(tmp_path, 10, splits)
    pipeline = run("pipeline", "--plan", plan)
    assert pipeline.exit_code == 0, pipeline.output
    assert (tmp_path / "ws/report.html").is_file()
    assert ("these images move" in pipeline.stderr) == (not splits)
    search = run("search", "picture number 3", "--plan", plan)
    assert search.exit_code == 0, search.output
    assert search.stdout.count(".jpg") >= 8
    with open(tmp_path / "photos/captions.csv", "a") as file:
        file.write("P100000.jpg,one,two,three,four\n")
    for command in ("update", "build"):
        index = run("index", command, "--plan", plan)
        assert index.exit_code == 0, index.output
        assert "invalid    P100000.jpg at line 12 of captions.csv: the row has more fields" in index.stderr, command


def test_dry_run_of_the_pipeline_lists_all_of_its_stages(tmp_path: Path) -> None:
    previewed = run("pipeline", "--dry-run", "--plan", album(tmp_path, 10))
    assert previewed.exit_code == 0, previewed.output
    assert [line.split("  ")[0] for line in previewed.stdout.splitlines()] == [
        *ALL_STAGES,
        "dry run: nothing was written",
    ]
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(
    ("num_images", "splits", "captions", "missing"),
    [
        (2, (), None, "'val' has 0"),
        (4, ("train",) * 4, None, "'val' has 0"),
        (4, ("val",) * 4, None, "'train' has 0"),
        (4, ("train", "val", "val", "test"), None, "'train' has 1"),
        (4, ("train", "train", "test", "val"), 3, "'val' has 0"),
        (4, (), 1, "'train' has 0 and 'val' has 0"),  # the content of the image draws `test`
    ],
)
@pytest.mark.parametrize("command", ["pipeline", "train", "index"])
def test_dataset_that_trains_no_model_is_an_error_before_the_extraction(
    tmp_path: Path, num_images, splits, captions, missing, command
) -> None:
    plan = album(tmp_path, num_images, splits, captions)
    found = run(command, "--plan", plan)
    assert isinstance(found.exception, ValueError)
    assert missing in str(found.exception)
    assert "a field `split`" in str(found.exception)
    assert not (tmp_path / "ws/stores").exists()


def test_extraction_alone_only_warns(tmp_path: Path) -> None:
    found = run("extract", "--plan", album(tmp_path, 2))
    assert found.exit_code == 0, found.output
    assert "cannot train a model" in found.stderr
    assert [len(Store(folder)) for folder in sorted((tmp_path / "ws/stores").iterdir())] == [2, 2]
