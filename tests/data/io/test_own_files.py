"""Locks and sweeps touch files of this program only."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from data.io import manifest_lock, remove_stale_temporaries, temporary_path, write_lock
from tests.architecture.code import ROOT


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


def make_name(process: int, stem: str = "a", suffix: str = ".json", space: str | None = None) -> str:
    """Name a temporary file of a process, in the space of process ids of this process by default."""
    return f".{stem}.{space or own_space()}-{process}.tmp{suffix}"


def own_space() -> str:
    """Read the id of this machine and container from the name of a temporary file."""
    return temporary_path(Path("a.json")).name.removeprefix(".a.").partition("-")[0]


def test_sweep_removes_temporary_files_of_ended_processes_of_this_machine_only(ended, tmp_path):
    stale = [make_name(ended), make_name(ended, "a.b", ".h5"), make_name(ended, "CURRENT", "")]
    kept = [
        temporary_path(Path("a.json")).name,  # of this process
        make_name(1),
        make_name(ended, space="0123456789ab"),
        make_name(ended, space=f"x{own_space()}"),
        make_name(ended) + ".bak",
        make_name(ended).replace(".tmp.", ".tmpl."),
        make_name(ended)[1:],
        ".notes.tmp.txt",
        ".tmp",
    ]
    write_files(tmp_path, stale + kept)
    folder, link = make_name(ended, "folder"), make_name(ended, "link")
    (tmp_path / folder).mkdir()
    (tmp_path / link).symlink_to(tmp_path / kept[0])
    remove_stale_temporaries(tmp_path)
    assert set(os.listdir(tmp_path)) == {*kept, folder, link}


def test_sweep_removes_files_of_other_machines_a_day_after_their_last_write(ended, tmp_path):
    old, new = make_name(1, space="0123456789ab"), make_name(2, space="0123456789ab")
    own = temporary_path(Path("a.json")).name
    write_files(tmp_path, [old, new, own])
    for name, hours in ((old, 25), (new, 23), (own, 25)):
        time = datetime.now().timestamp() - hours * 3600
        os.utime(tmp_path / name, (time, time))
    remove_stale_temporaries(tmp_path)
    assert set(os.listdir(tmp_path)) == {new, own}


WRITE_IN_CONTAINER = """
import os, sys
from pathlib import Path
from data.io import remove_stale_temporaries, temporary_path
folder = Path(sys.argv[1])
remove_stale_temporaries(folder)
temporary_path(folder / "a.json").touch()
print(os.getpid(), flush=True)
input()
"""


def test_containers_with_one_host_name_keep_the_temporary_files_of_each_other(tmp_path):
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*container, "true"], capture_output=True).returncode:
        pytest.skip("`unshare` cannot make a namespace of process ids here")
    command = [*container, sys.executable, "-c", WRITE_IN_CONTAINER, str(tmp_path)]
    options = {"cwd": ROOT, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # The kernel gives the number of a namespace again when all its processes have ended, so both run at the same time.
    with subprocess.Popen(command, **options) as first, subprocess.Popen(command, **options) as second:
        assert (first.stdout.readline(), second.stdout.readline()) == ("1\n", "1\n")
        assert len(os.listdir(tmp_path)) == 2, "both are process 1 of a machine with one name"
        for process in (first, second):
            process.communicate("\n")


def test_sweep_in_a_folder_of_a_user_is_limited_to_the_files_of_the_export(ended, tmp_path):
    wanted = make_name(ended, "x", ".npy")
    others = [make_name(ended, "x", ".txt"), make_name(ended, "y", ".npy")]
    write_files(tmp_path, [wanted, *others])
    remove_stale_temporaries(tmp_path, [tmp_path / "x.npy"])
    assert set(os.listdir(tmp_path)) == set(others)
