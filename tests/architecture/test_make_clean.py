"""`make clean` removes what is built, never what a user made; `make clean-runs` asks first."""

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture.code import ROOT

USER_FILES = ("runs/mine/stores/shard.h5", "datasets/photos/a.jpg", "notes/__init__.py", "work/index/CURRENT")
BUILT = (".venv/bin/python", ".pytest_cache/v", ".ruff_cache/v", "data/__pycache__/a.pyc", "tests/io/__pycache__/b.pyc")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def project(tmp_path) -> Path:
    for name in (*USER_FILES, *BUILT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("three days of extraction")
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def make(project: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("CONFIRM", "VENV", "MAKEFLAGS")}
    return subprocess.run(
        ["make", "-C", str(project), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        **({"stdin": subprocess.DEVNULL} | options),
    )


def remaining(project: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if (project / name).is_file())


def test_clean_removes_environment_and_caches_only(project):
    assert make(project, "clean").returncode == 0
    assert (remaining(project, BUILT), remaining(project, USER_FILES)) == ((), USER_FILES)


@pytest.mark.parametrize("folder", ["runs", ".", "..", "notes", "runs/mine"])
def test_clean_of_a_folder_that_is_no_environment_removes_nothing(folder, project):
    result = make(project, "clean", f"VENV={folder}")
    assert result.returncode != 0
    assert "not a folder of a virtual environment" in result.stderr
    assert remaining(project, BUILT + USER_FILES) == BUILT + USER_FILES


def test_clean_removes_an_environment_in_another_folder(project):
    (project / "my env").mkdir()
    (project / "my env" / "pyvenv.cfg").write_text("home = /usr/bin")
    assert make(project, "clean", "VENV=my env").returncode == 0
    assert not (project / "my env").exists()
    assert remaining(project, USER_FILES) == USER_FILES


@pytest.mark.parametrize("arguments", [(), ("CONFIRM=",), ("CONFIRM=1",), ("CONFIRM=YES",), ("CONFIRM=no",)])
def test_clean_runs_without_a_terminal_or_a_yes_lists_and_removes_nothing(arguments, project):
    result = make(project, "clean-runs", *arguments)
    assert result.returncode != 0
    assert "runs/mine" in result.stdout
    assert "Nothing was removed" in result.stderr
    assert remaining(project, USER_FILES) == USER_FILES


@pytest.mark.parametrize(("answer", "is_removed"), [("yes\n", True), ("y\n", False), ("\n", False), ("\x04", False)])
def test_clean_runs_asks_on_a_terminal(answer, is_removed, project):
    controller, terminal = pty.openpty()
    try:
        os.write(controller, answer.encode())
        result = make(project, "clean-runs", stdin=terminal)
    finally:
        os.close(controller)
        os.close(terminal)
    assert (result.returncode == 0) == is_removed
    assert (project / "runs").exists() != is_removed
    assert remaining(project, USER_FILES[1:]) == USER_FILES[1:]


def test_clean_runs_with_confirmation_removes_only_runs(project):
    assert make(project, "clean-runs", "CONFIRM=yes").returncode == 0
    assert remaining(project, USER_FILES + BUILT) == USER_FILES[1:] + BUILT
    assert make(project, "clean-runs").returncode == 0, "nothing is left to ask about"


def test_clean_runs_leaves_what_a_link_names(project):
    shutil.move(project / "runs", project / "big")
    (project / "runs").symlink_to(project / "big")
    assert make(project, "clean-runs", "CONFIRM=yes").returncode != 0
    assert (project / "big" / "mine" / "stores" / "shard.h5").is_file()
