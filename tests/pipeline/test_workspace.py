"""Where a workspace may be, and whose folder it is: nothing of a user is overwritten, no output becomes an input."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from data.io import sha256_file
from pipeline.cli.app import build_app
from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.workspace import MARKER, Workspace
from tests.architecture.code import ROOT

DATASET = """
[dataset]
name = "mine"
format = "folder"
annotations = '{folder}/captions.csv'
images = '{folder}/photos'
"""
OLD = ROOT / "tests/architecture/old_workspace"
STAGE = '\n{"stage": "dataset", "seconds": 0.25, "output": "mine"}\n'


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A home folder, and a folder with three images and their captions, in which the commands run."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    here = tmp_path / "here"
    (here / "photos").mkdir(parents=True)
    monkeypatch.chdir(here)
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(here / "photos" / f"h{number}.jpg")
    lines = [f"h{number}.jpg,picture number {number}" for number in range(3)]
    (here / "captions.csv").write_text("\n".join(["image,caption", *lines]))
    return here


def write_plan(folder: Path, workspace: str, more: str = "") -> str:
    """Write a plan beside the folder, with the workspace as a literal text of TOML."""
    path = folder.parent / "plan.toml"
    path.write_text(f"workspace = {json.dumps(workspace)}\n{more}{DATASET.format(folder=folder)}")
    return str(path)


def snapshot(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.name != "plan.toml"]
    return {str(path.relative_to(folder)): sha256_file(path) if path.is_file() else "" for path in paths}


# ------------------------------------------------------------------------------------------------------- path settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/runs/mine", "{home}/runs/mine"),
        ("~/", "{home}"),
        ("$HOME/runs/mine", "{home}/runs/mine"),
        ("${HOME}/runs", "{home}/runs"),
        ("runs/$TERN_TEST_NAME/x", "runs/given/x"),
        ("runs/mine", "runs/mine"),
        ("./runs/../mine", "runs/../mine"),
        ("/data/Anna's photos [2019] & more", "/data/Anna's photos [2019] & more"),
        ("runs/Übung-日本", "runs/Übung-日本"),
        ("runs/a:b", "runs/a:b"),
    ],
)
def test_paths_are_expanded_as_a_shell_does(text, expected, folder, monkeypatch):
    monkeypatch.setenv("TERN_TEST_NAME", "given")
    expected = Path(expected.format(home=folder.parent / "home"))
    more = "checkpoint = " + json.dumps(text) + "\nregions_store = " + json.dumps(text) + "\n"
    if expected == folder.parent / "home":
        with pytest.raises(ValueError, match="is your home folder"):
            load_plan(write_plan(folder, text))
        return
    plan = load_plan(write_plan(folder, text, more))
    assert (plan.workspace, plan.checkpoint, plan.regions_store) == (expected, expected, expected)
    overrides = (f"dataset.images={text}", f"dataset.annotations={text}", "workspace=runs/x")
    dataset = load_plan(write_plan(folder, "w"), overrides).dataset
    assert (dataset.images, dataset.annotations) == (expected, expected)


INVALID_PATHS = {
    "": "the path is empty",
    " ": "starts or ends with a blank",
    "runs/mine ": "starts or ends with a blank",
    " runs/mine": "starts or ends with a blank",
    "runs/mine\u00a0": "starts or ends with a blank",
    "runs/mi\nne": "control character or a line break",
    "runs/\x00": "control character or a line break",
    "runs/\x1b[2J": "control character or a line break",
    "runs/\u2028x": "control character or a line break",
    "$TERN_TEST_UNSET/runs": "the variable \\$TERN_TEST_UNSET of the path is not set",
    "${TERN_TEST_UNSET}": "the variable \\$\\{TERN_TEST_UNSET\\} of the path is not set",
    "$TERN_TEST_EMPTY/runs": "the variable \\$TERN_TEST_EMPTY of the path is not set",
    "~nobody-at-all/runs": "~nobody-at-all of the path names no home folder",
}
INVALID_NEW_FOLDERS = {
    "runs /mine": "starts or ends with a blank or a quotation mark",
    "runs/~/mine": "'~' has another meaning for a shell",
    "./~": "'~' has another meaning for a shell",
    "runs/~anna": "'~anna' has another meaning",
    "-rf": "'-rf' has another meaning",
    "runs/-x": "'-x' has another meaning",
    "runs/*": "'\\*' has another meaning",
    "runs/wh?t": "'wh\\?t' has another meaning",
    "runs/{name}": "'{name}' has another meaning",
    "runs/a|b": "'a\\|b' has another meaning",
    "runs/$": "'\\$' has another meaning",
    "runs/$(date)": "another meaning",
    "'runs/mine'": "a blank or a quotation mark",
    '"runs/mine"': "a blank or a quotation mark",
    "C:\\Users\\me": "address or a path of another system",
    "C:/Users/me": "address or a path of another system",
    "runs\\mine": "address or a path of another system",
    "%USERPROFILE%/runs": "address or a path of another system",
    "s3://bucket/runs": "address or a path of another system",
    "file:runs": "address or a path of another system",
    "me@host:/data": "address or a path of another system",
    "//server/share": "address or a path of another system",
    "runs/a\u200bb": "invisible character",
    "runs/\u202egnp": "invisible character",
}


@pytest.mark.parametrize("text", INVALID_PATHS | INVALID_NEW_FOLDERS)
def test_workspace_path_with_a_surprise_is_refused_and_nothing_appears(text, folder, monkeypatch):
    monkeypatch.setenv("TERN_TEST_EMPTY", "")
    before = snapshot(folder)
    with pytest.raises(ValueError, match="workspace: .*" + (INVALID_PATHS | INVALID_NEW_FOLDERS)[text]):
        load_plan(write_plan(folder, text))
    assert snapshot(folder) == before


@pytest.mark.parametrize("text", INVALID_PATHS)
@pytest.mark.parametrize(
    "key", ["dataset.images", "dataset.annotations", "regions_store", "checkpoint", "regions_file.path"]
)
def test_every_path_of_a_plan_is_checked(key, text, folder, monkeypatch):
    monkeypatch.setenv("TERN_TEST_EMPTY", "")
    overrides = (f"{key}={json.dumps(text)}", *(['regions_file.feature_arrays=["x"]'] if "file" in key else []))
    with pytest.raises(ValueError, match=f"{key}: .*{INVALID_PATHS[text]}"):
        load_plan(write_plan(folder, "ws"), overrides)


def test_names_of_models_are_expanded_if_they_are_paths(folder):
    home, overrides = folder.parent / "home", ("text.model=~/bert", "evaluate.spice_file=$HOME/{split}.npy")
    plan = load_plan(write_plan(folder, "ws"), (*overrides, "regions.weights=~/w.pth"))
    assert (plan.text.model, plan.regions.weights) == (f"{home}/bert", f"{home}/w.pth")
    assert plan.evaluate.spice_file == f"{home}/{{split}}.npy"
    bottom_up = ('regions={kind="bottom-up", weights="~/vg.safetensors", vocabulary_dir="$HOME/vocab"}',)
    plan = load_plan(write_plan(folder, "ws"), bottom_up)
    assert (plan.regions.weights, plan.regions.vocabulary_dir) == (home / "vg.safetensors", home / "vocab")


def test_folder_of_images_with_a_dollar_in_its_name_is_found(folder):
    shutil.move(folder / "photos", folder / "photos$2020")
    assert load_plan(write_plan(folder, "ws"), ("dataset.images=photos$2020",)).dataset.images == Path("photos$2020")


def test_home_that_is_not_a_path_is_not_the_root_of_the_file_system(folder, monkeypatch):
    for home in ("", "here"):
        monkeypatch.setenv("HOME", home)
        with pytest.raises(ValueError, match=r"~ of the path names no home folder"):
            load_plan(write_plan(folder, "~/runs"))


# ------------------------------------------------------------------------------------------------------------ location


@pytest.mark.parametrize(
    ("workspace", "message"),
    [
        ("photos/ws", "photos/ws is inside the folder of images"),
        ("photos/a/b/ws", "is inside the folder of images"),
        ("photos", "photos is the folder of images"),
        ("photos/../photos/ws", "is inside the folder of images"),
        (".", "holds the folder of images"),
        ("link/ws", "is inside the folder of images"),
        ("link", "is the folder of images"),
        ("ws/..", "holds the folder of images"),
        ("/", "is your home folder or holds it"),
        ("~/../home", "is your home folder or holds it"),
        ("..", "is your home folder or holds it"),
        ("captions.csv", "is a file or a broken link"),
        ("broken", "is a file or a broken link"),
    ],
)
@pytest.mark.parametrize("is_absolute", [False, True])
def test_workspace_at_a_wrong_place_is_refused_and_nothing_is_written(workspace, message, is_absolute, folder):
    (folder / "link").symlink_to(folder / "photos")
    (folder / "broken").symlink_to(folder / "nowhere")
    text = str(folder / workspace) if is_absolute and not workspace.startswith("~") else workspace
    before = snapshot(folder.parent)
    for words in (["extract"], ["index"], ["search", "x"], ["report"]):
        result = CliRunner().invoke(build_app(), [*words, "--plan", write_plan(folder, text)])
        assert result.exit_code == 1
        assert message in str(result.exception)
    assert snapshot(folder.parent) == before


def test_images_behind_a_link_in_the_workspace_are_found(folder):
    """The paths are compared as folders of the disk: a second name of the same folder is the same folder."""
    (folder / "ws").mkdir()
    (folder / "other").symlink_to(folder / "ws")
    shutil.move(folder / "photos", folder / "ws" / "photos")
    with pytest.raises(ValueError, match="holds the folder of images other/photos"):
        load_plan(write_plan(folder, "ws"), ("dataset.images=other/photos",))


@pytest.mark.parametrize("workspace", ["ws", "photos-ws", "../ws", "~/ws"])
def test_workspace_beside_the_images_works(workspace, folder):
    runner = PipelineRunner(load_plan(write_plan(folder, workspace)))
    for _ in range(2):
        assert len(runner.load_dataset().images) == 3
    assert json.loads((runner.workspace.root / MARKER).read_text()) == {"schema": 1, "dataset": "mine"}


# ------------------------------------------------------------------------------------------------------------- whose


USER_FOLDERS = {
    "report": {"report.html": "my thesis"},
    "hashes": {"invalid_records.jsonl": "mine", "hashes.json": '{"files": {}}'},
    "dataset": {"dataset/images/scene-00001.jpg": "a picture of mine", "dataset/manifest.json": '{"name": "npm"}'},
    "models": {"models/tern-0123456789ab/model.json": '{"a": 1}', "models/mine.bin": "x"},
    "stores": {"stores/berlin/manifest.json": '{"schema": 1, "recipe": "cake"}', "stores/list.txt": "x"},
    "index": {"index/CURRENT": "MANIFEST-000001", "index/versions/v1.json": "{}"},
    "log": {"stages.jsonl": '{"stage": "Tour de France"}\n', "journal.jsonl": "Dear friend"},
    "plan": {"plan.toml": "workspace = '.'"},
    "git": {".git/HEAD": "ref: refs/heads/main"},
    "hidden": {".bashrc": "alias"},
}


@pytest.mark.parametrize("name", USER_FOLDERS)
def test_folder_with_files_of_somebody_else_is_refused_and_keeps_them(name, folder):
    for path, text in USER_FOLDERS[name].items():
        (folder / "ws" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "ws" / path).write_text(text)
    before = snapshot(folder)
    for words in (["pipeline"], ["extract"], ["index"], ["extract", "--dry-run"]):
        result = CliRunner().invoke(build_app(), [*words, "--plan", write_plan(folder, "ws")])
        assert result.exit_code == 1
        assert "ws is not a workspace: it holds other files, such as" in str(result.exception)
    assert snapshot(folder) == before


@pytest.mark.parametrize("make", [lambda root: None, Path.mkdir], ids=["missing", "empty"])
@pytest.mark.parametrize("ignored", ["", ".DS_Store", "..tern-workspace.0123456789ab-7.tmp.json"])
def test_new_workspace_is_marked(make, ignored, tmp_path):
    root = tmp_path / "ws"
    make(root)
    if ignored and root.exists():
        (root / ignored).write_text("x")
    Workspace(root).claim("mine")
    (root / "report.html").write_text("old report")
    Workspace(root).claim("mine")
    assert (root / MARKER).is_file()


@pytest.mark.parametrize("part", ["stores", "vectors", "models", "dataset", "index", "stages.jsonl", "journal.jsonl"])
def test_workspace_of_an_earlier_version_is_known_by_any_of_its_parts(part, tmp_path):
    root = tmp_path / "ws"
    root.mkdir()
    (root / "report.html").write_text("old report")
    if part.endswith(".jsonl"):
        (root / part).write_text('{"stage": "data' + STAGE)
    else:
        shutil.copytree(OLD / part, root / part)
    Workspace(root).claim("mine")
    assert json.loads((root / MARKER).read_text())["dataset"] == "mine"


def test_workspace_of_another_dataset_is_refused(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    workspace.claim("mine")
    with pytest.raises(ValueError, match="belongs to the dataset 'mine', and the plan has 'other'"):
        workspace.claim("other")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not valid JSON"), ("[]", "has schema None"), ('{"schema": 2}', "has schema 2")]
)
def test_marker_that_cannot_be_read_is_an_error(text, message, tmp_path):
    workspace = Workspace(tmp_path)
    workspace.claim("mine")
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(ValueError, match=message):
        workspace.claim("mine")


def test_processes_that_start_together_claim_one_workspace(tmp_path):
    code = "import sys; from pathlib import Path; from pipeline.workspace import Workspace\n"
    code += f"Workspace(Path({str(tmp_path / 'ws')!r})).claim('mine')"
    command = [os.sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert os.listdir(tmp_path / "ws") == [MARKER]
