"""The plan of a folder of photographs: its place, and what it says after any name."""

import tomllib
from pathlib import Path

import pytest

from data.settings import find_data_folder
from pipeline.photo_folders import (
    PhotoFolder,
    check_workspace,
    default_workspace,
    find_plan_file,
    list_plan_files,
    read_photo_folder,
    write_photo_plan,
)
from pipeline.plan_files import read_plan_text, shipped_plans
from pipeline.plans.load import load_plan

NAMES = ["holiday", "ein Bild", 'with "quotes"', "back\\slash", "50% off", "émile", "日本", "a" * 200, "-rf", "a.toml"]


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg"


@pytest.mark.parametrize("name", NAMES)
def test_plan_of_a_folder_says_what_was_written(name, tmp_path):
    images = tmp_path / name
    images.mkdir()
    folder = PhotoFolder(images, default_workspace(images), "photos", ("**/*.jpg",), ("a 'b'/**", 'c"d'))
    path = write_photo_plan(folder)
    assert path.parent == tmp_path / "xdg" / "tern" / "photos"
    assert read_photo_folder(path) == folder
    assert tomllib.loads(path.read_text(encoding="utf-8"))["dataset"]["images"] == str(images)
    plan = load_plan(str(path))
    assert (plan.dataset.images, plan.workspace) == (images, folder.workspace)
    assert list_plan_files() == [path]


def test_two_folders_of_one_name_have_two_plans_and_workspaces(tmp_path):
    paths = {find_plan_file(tmp_path / parent / "photos") for parent in "ab"}
    assert len(paths) == 2
    assert len({default_workspace(tmp_path / parent / "photos") for parent in "ab"}) == 2


def test_plan_is_found_through_a_link_and_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert find_plan_file(Path("link")) == find_plan_file(tmp_path / "real") == find_plan_file(Path("real/../link"))


def test_plan_is_written_only_when_it_changes(tmp_path):
    folder = PhotoFolder(tmp_path, default_workspace(tmp_path))
    path = write_photo_plan(folder)
    before = path.stat()
    write_photo_plan(folder)
    assert path.stat().st_ino == before.st_ino
    write_photo_plan(PhotoFolder(tmp_path, default_workspace(tmp_path), exclude=("x",)))
    assert path.stat().st_ino != before.st_ino


@pytest.mark.parametrize("text", ["", "x", "model = 3", "workspace = 'w'\nmodel = 'm'\n[dataset]\nname = 'n'"])
def test_file_that_is_no_plan_of_a_folder_is_named(text, tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"p\.toml is not the plan of a folder of photographs .* Remove the file"):
        read_photo_folder(path)


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_data_folder_ignores_what_the_specification_ignores(value, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", value)
    monkeypatch.setenv("HOME", "/home/x")
    assert find_data_folder() == Path("/home/x/.local/share/tern")


def test_plan_of_an_indexed_folder_is_found_by_the_folder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    path = write_photo_plan(PhotoFolder(tmp_path / "photos", default_workspace(tmp_path / "photos")))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "photos/", "~/photos", str(tmp_path / "photos"), str(path)):
        assert read_plan_text(name) == (path, path.read_text())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", "The folder other has no plan: .* Run `tern photos other`"),
        ("my photos", "Run `tern photos 'my photos'`"),
        ("gone", "Plan 'gone' does not exist"),
        ("", "Plan '' does not exist"),
        ("x.txt", "Plan 'x.txt' does not exist"),
        ("demo", None),
    ],
)
def test_folder_without_a_plan_is_named_with_the_command(name, message, tmp_path, monkeypatch):
    for folder in ("other", "my photos", "demo"):  # the shipped plan of this name comes first
        (tmp_path / folder).mkdir()
    (tmp_path / "x.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    if message is None:
        assert read_plan_text(name)[0] == shipped_plans()[name]
        return
    with pytest.raises(FileNotFoundError, match=message):
        read_plan_text(name)


def test_workspace_of_another_folder_is_refused(tmp_path):
    first, second = (PhotoFolder(tmp_path / name, tmp_path / "workspace") for name in "ab")
    check_workspace(first)
    write_photo_plan(first)
    check_workspace(first)
    with pytest.raises(ValueError, match=r"is that of the photographs in .*/a, .*Pass another --workspace"):
        check_workspace(second)
