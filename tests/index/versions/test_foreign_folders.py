"""Commands that delete or write know the files of an index, and leave everything else as it is."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from index.building.build import build_index
from index.building.compact import compact_index
from index.building.publish import override_gate
from index.collection import IndexInputs
from index.versions.folder import list_versions, manifest_path
from index.versions.garbage import collect_garbage
from index.versions.objects import Staging
from index.versions.switch import rollback, verify_version
from index.versions.tags import add_tag, remove_tag
from pipeline.cli.app import build_app
from tests.helpers.index_publish import CONFIG, publish
from tests.helpers.index_world import make

HEX = "0123456789abcdef"
FOREIGN_FOLDERS = {
    "git repository": {
        "HEAD": "ref: refs/heads/main",
        f"objects/ab/{HEX[: 38 - 16] + HEX}": "blob",
        "refs/heads/main": "x",
    },
    "thesis": {"chapter.txt": "text", "objects/photos/mine.jpg": "photo", "staging/print/page.pdf": "page"},
    "objects of SHA-256": {f"objects/ab/ab{HEX * 3}{HEX[:14]}": "of another program", "config": "restic"},
    "LevelDB": {"CURRENT": "MANIFEST-000001\n", "MANIFEST-000001": "x", "000003.log": "x"},
    "JSON of others": {"CURRENT": '{"branch": 3}', "versions/v00000001.json": '{"name": "left-pad"}', "a.txt": "x"},
    "staging only": {"staging/0123456789ab/notes.txt": "mine"},
}
COMMANDS = {
    "gc": collect_garbage,
    "gc --dry-run": lambda root: collect_garbage(root, dry_run=True),
    "compact": compact_index,
    "tag": lambda root: add_tag(root, "prod", 1),
    "untag": lambda root: remove_tag(root, "prod"),
    "publish": lambda root: rollback(root, 1),
    "override": lambda root: override_gate(root, 1, "reason"),
    "build": lambda root: build_index(CONFIG, IndexInputs(*make(1, images=60)), root),
}


def write_files(root: Path, content: dict[str, str]) -> Path:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def snapshot(root: Path) -> dict[str, str]:
    """SHA-256 of each file, and each folder, by path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in root.rglob("*")
    }


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", FOREIGN_FOLDERS)
def test_folder_that_is_not_an_index_stays_byte_for_byte(content, command, tmp_path):
    root = write_files(tmp_path / "thesis", FOREIGN_FOLDERS[content])
    before = snapshot(root)
    with pytest.raises((ValueError, FileNotFoundError), match="is not an index"):
        COMMANDS[command](root)
    assert snapshot(root) == before


@pytest.mark.parametrize("command", ["gc", "compact", "tag", "untag", "publish", "override"])
def test_command_on_a_missing_or_empty_folder_creates_nothing(command, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(FileNotFoundError, match="is not an index: no index is published in it"):
            COMMANDS[command](tmp_path / name)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


@pytest.fixture
def root(tmp_path) -> Path:
    """An index of two versions, with files of somebody else and with unfinished work in it."""
    root = tmp_path / "index"
    for seed in (1, 2):
        publish(root, seed)
    return root


FOREIGN_FILES = (
    "objects/ab/notes.txt",
    "objects/readme.md",
    f"objects/cd/ab{HEX * 3}{HEX[:14]}",  # in the folder of another prefix
    f"objects/ab/AB{HEX * 3}{HEX[:14]}",
    f"objects/ab/ab{HEX * 3}{HEX[:14]}.bak",
    "staging/thesis/chapter.part",
    "staging/0123456789ab/photo.jpg",
    "staging/0123456789ab/.hidden.part",
    "staging/list.json",
)
UNFINISHED = ("staging/0123456789ab/image-trained-index.json", "staging/0123456789ab/image-shard-0000.lists.part")
UNREFERENCED = f"objects/ab/ab{HEX * 3}{HEX[:14]}"


def test_garbage_collection_deletes_only_files_of_the_index(root, tmp_path):
    write_files(root, dict.fromkeys((*FOREIGN_FILES, *UNFINISHED, UNREFERENCED), "x"))
    photo = tmp_path / "photo.jpg"
    photo.write_text("photo")
    link = root / "objects" / "ab" / ("ab" + "0" * 62)
    link.symlink_to(photo)
    before = snapshot(root)
    report = collect_garbage(root, keep=2, dry_run=True)
    assert {path.relative_to(root).as_posix() for path in report.foreign} == {
        *FOREIGN_FILES,
        link.relative_to(root).as_posix(),
    }
    assert {path.relative_to(root).as_posix() for path in report.staged} == set(UNFINISHED)
    assert report.objects == 1
    unchanged = {name: value for name, value in snapshot(root).items() if name != ".writer"}
    assert unchanged == {name: value for name, value in before.items() if name != ".writer"}
    collect_garbage(root, keep=2)
    after = snapshot(root)
    assert before.keys() - after.keys() == {*UNFINISHED, UNREFERENCED}
    assert photo.read_text() == "photo"
    assert verify_version(root).version == 2


def test_gc_command_lists_what_goes_and_what_stays(root):
    write_files(root, dict.fromkeys((*FOREIGN_FILES, *UNFINISHED, UNREFERENCED), "x"))
    output = CliRunner().invoke(build_app(), ["index", "gc", "--index", str(root), "--dry-run"]).output
    assert "would be deleted: unfinished build staging/0123456789ab, 2 files" in output
    assert "would be deleted: versions none; 1 files, 1 bytes" in output
    for name in FOREIGN_FILES:
        assert f"kept: {name} is not a file of the index" in output


def test_build_keeps_files_of_others_in_staging(root):
    write_files(root, dict.fromkeys(FOREIGN_FILES, "x"))
    stale = write_files(root, {UNFINISHED[1]: "half a file"}) / UNFINISHED[1]
    publish(root, 3)
    assert not stale.exists()
    assert all((root / name).is_file() for name in FOREIGN_FILES)


def test_interrupted_first_build_is_continued(tmp_path):
    """A folder in which a first build was killed has no version yet, and is nobody else's."""
    root = tmp_path / "index"
    staging = Staging(root, "0123456789ab")
    staging.add_object("image/trained-index", lambda path: path.write_bytes(b"centroids"))
    write_files(root, dict.fromkeys(UNFINISHED, "x") | {".writer": "process 1", "tags/prod.json": "{}"})
    publish(root, 1)
    assert list_versions(root) == [1]


@pytest.mark.parametrize("name", ["CURRENT", "versions"])
def test_index_with_one_damaged_half_is_still_an_index(name, root):
    """Either CURRENT or a manifest is enough to know it: it must stay repairable."""
    if name == "CURRENT":
        (root / "CURRENT").write_text("{")
        rollback(root, 1)
    else:
        for number in (1, 2):
            os.chmod(manifest_path(root, number), 0o644)
            manifest_path(root, number).write_text("{")
        publish(root, 3)
    assert verify_version(root)


def test_index_whose_objects_lie_on_another_disk_is_collected(root, tmp_path):
    shutil.move(root / "objects", tmp_path / "big")
    (root / "objects").symlink_to(tmp_path / "big")
    write_files(root, {UNREFERENCED: "x"})
    assert collect_garbage(root, keep=2).objects == 1
    assert verify_version(root).version == 2


@pytest.mark.parametrize(("tag", "lost"), [(None, (1, 2)), (None, (2,)), ("prod", (1,))])
def test_objects_of_a_version_whose_manifest_is_missing_are_not_garbage(tag, lost, root):
    """The folder `versions` is on a disk that is not mounted, or was restored from a copy that is too old."""
    if tag:
        add_tag(root, tag, 1)
    for number in lost:
        manifest_path(root, number).unlink()
    before = {path for path in (root / "objects").rglob("*") if path.is_file()}
    for dry_run in (True, False):
        with pytest.raises(FileNotFoundError, match=f"names version {lost[-1]}, but .* is missing"):
            collect_garbage(root, keep=1, dry_run=dry_run)
    assert {path for path in (root / "objects").rglob("*") if path.is_file()} == before
