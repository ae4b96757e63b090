"""A file that an option names as the output is never overwritten unasked, and the refusal comes before the work."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.io import check_output_file, is_within
from pipeline.cli.app import build_app
from tests.helpers.small_plan import small_plan

PLAN = """
workspace = "{folder}/ws"
[dataset]
name = "mine"
format = "folder"
annotations = "{folder}/captions.csv"
images = "{folder}/photos"
"""


@pytest.fixture
def plan(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(folder=tmp_path))
    return path


def invoke(command: str, plan: Path, *arguments: str) -> str:
    """Run a command that cannot succeed, and return its error."""
    words = ["search", "a dog", "--gallery"] if command == "gallery" else ["misses", "--output"]
    result = CliRunner().invoke(build_app(), [*words, *arguments, "--plan", str(plan)])
    assert result.exit_code != 0
    return str(result.exception) if not isinstance(result.exception, SystemExit) else result.output


@pytest.mark.parametrize("command", ["gallery", "misses"])
def test_existing_file_is_refused_before_any_work_and_keeps_its_bytes(command, plan, tmp_path):
    letter = tmp_path / "letter.html"
    letter.write_text("Dear reader")
    assert "letter.html already exists. Pass another name, or --force" in invoke(command, plan, str(letter))
    assert letter.read_text() == "Dear reader"
    assert not (tmp_path / "ws").exists()
    for arguments in ([str(tmp_path / "new.html")], [str(letter), "--force"]):
        assert "already exists" not in invoke(command, plan, *arguments), "the work begins"


@pytest.mark.parametrize("command", ["gallery", "misses"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("page.pdf", "does not end in .html"),
        ("page", "does not end in .html"),
        ("folder.html", "is not the path of a file"),
        ("photos/hits.html", "is in the folder of images"),
        ("link/hits.html", "is in the folder of images"),
        ("dangling.html", "already exists"),
        ("plan.toml/hits.html", "is not the path of a file"),
    ],
)
def test_path_that_cannot_be_an_output_is_refused_even_with_force(command, name, message, plan, tmp_path):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    (tmp_path / "dangling.html").symlink_to(tmp_path / "nowhere")
    force = () if name == "dangling.html" else ("--force",)
    assert message in invoke(command, plan, str(tmp_path / name), *force)
    assert list((tmp_path / "photos").iterdir()) == []


def test_pictures_are_refused_by_the_same_rules(plan, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"photo")
    assert "already exists" in invoke("gallery", plan, str(tmp_path / "mine.png"))
    assert "does not end in .html" in invoke("misses", plan, str(tmp_path / "mine.png"))


def test_device_is_never_replaced_by_a_file():
    with pytest.raises(ValueError, match="is not the path of a file"):
        check_output_file(Path(os.devnull), force=True)


def test_path_within_a_folder_is_found_through_links_and_dots(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    inside = ("a", "a/", "a/b", "a/new/c.png", "link", "link/b/c", "a/b/..", "x/../a/c")
    assert all(is_within(tmp_path / name, tmp_path / "a") for name in inside)
    assert not any(is_within(tmp_path / name, tmp_path / "a") for name in ("ab", "", "b", "a/..", "link/../b"))


def test_tilde_behind_an_equals_sign_is_the_home_folder(plan, tmp_path, monkeypatch):
    """Bash leaves `--gallery=~/x.html` as it is; a folder called `~` in the current folder would surprise."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "hits.html").write_text("mine")
    result = CliRunner().invoke(build_app(), ["search", "a dog", f"--plan={plan}", "--gallery=~/hits.html"])
    assert f"{tmp_path}/home/hits.html already exists" in str(result.exception)
    result = CliRunner().invoke(
        build_app(), ["search", "a dog", f"--plan={plan}", "--gallery=~nobody-at-all/hits.html"]
    )
    assert "there is no such user" in str(result.exception)
    moved = plan.rename(tmp_path / "home" / "plan.toml")
    assert moved.is_file()
    result = CliRunner().invoke(build_app(), ["search", "a dog", "--plan=~/plan.toml", "--gallery=~/hits.html"])
    assert f"{tmp_path}/home/hits.html already exists" in str(result.exception)
    result = CliRunner().invoke(build_app(), ["index", "gc", "--index=~/index"])
    assert str(tmp_path / "home" / "index") in str(result.exception)
    assert not (tmp_path / "~").exists()


@pytest.mark.slow
def test_gallery_and_misses_replace_a_file_with_force(finished_pipeline, tmp_path):
    plan = small_plan(tmp_path, workers=1)
    plan.write_text(plan.read_text().replace(str(tmp_path / "run"), str(finished_pipeline.plan.workspace)))
    for words in (["search", "a dog", "--gallery"], ["misses", "--output"]):
        page = tmp_path / f"{words[0]}.html"
        page.write_text("old")
        for arguments, is_written in (([], False), (["--force"], True)):
            result = CliRunner().invoke(build_app(), [*words, str(page), *arguments, "--plan", str(plan)])
            assert (result.exit_code == 0) == is_written, result.output
            assert page.read_text().startswith("<!doctype html>" if is_written else "old")
