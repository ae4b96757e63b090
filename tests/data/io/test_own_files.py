"""Locks and sweeps touch files of this program only."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from data.io import manifest_lock, remove_stale_temporaries, temporary_path, write_lock


@pytest.mark.parametrize(("lock", "name"), [(write_lock, ".writer"), (manifest_lock, ".lock")])
def test_lock_never_empties_what_a_link_names(lock, name, tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter 1")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(OSError, match="symbolic links"), lock(tmp_path / "store"):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "chapter 1"


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True
    )
    return int(process.stdout)


def write_files(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).write_text("x")


def test_sweep_removes_temporary_files_of_ended_processes_of_this_machine_only(ended, tmp_path):
    node = platform.node()
    stale = [f".a.{node}-{ended}.tmp.json", f".a.b.{node}-{ended}.tmp.h5", f".CURRENT.{node}-{ended}.tmp"]
    kept = [
        temporary_path(Path("a.json")).name,  # of this process
        f".a.{node}-1.tmp.json",
        f".a.another-host-{ended}.tmp.json",
        f".a.x{node}-{ended}.tmp.json",
        f".a.{node}-{ended}.tmp.json.bak",
        f".a.{node}-{ended}.tmpl.json",
        f"a.{node}-{ended}.tmp.json",
        ".notes.tmp.txt",
        ".tmp",
    ]
    write_files(tmp_path, stale + kept)
    (tmp_path / f".folder.{node}-{ended}.tmp.json").mkdir()
    (tmp_path / f".link.{node}-{ended}.tmp.json").symlink_to(tmp_path / kept[0])
    remove_stale_temporaries(tmp_path)
    assert set(os.listdir(tmp_path)) == {*kept, f".folder.{node}-{ended}.tmp.json", f".link.{node}-{ended}.tmp.json"}


def test_sweep_in_a_folder_of_a_user_is_limited_to_the_files_of_the_export(ended, tmp_path):
    node = platform.node()
    write_files(tmp_path, [f".x.{node}-{ended}.tmp.npy", f".x.{node}-{ended}.tmp.txt", f".y.{node}-{ended}.tmp.npy"])
    remove_stale_temporaries(tmp_path, [tmp_path / "x.npy"])
    assert set(os.listdir(tmp_path)) == {f".x.{node}-{ended}.tmp.txt", f".y.{node}-{ended}.tmp.npy"}
