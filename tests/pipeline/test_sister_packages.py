"""A `data.py` or `index.py` of the user's own beside a script gets one clear sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parents[1]
SCRIPT = "from pipeline.plans import load_plan; print(load_plan('demo').workspace)"


def run_script(folder, *options):
    """Run a script in a folder; return its exit status and the last line that it prints."""
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, *(options or ["script.py"])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).rstrip().splitlines()[-1]


@pytest.mark.parametrize("name", ["data.py", "index.py", "tern/__init__.py"])
def test_file_that_hides_a_package_is_named(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    shown = path if path.name != "__init__.py" else path.parent
    assert run_script(tmp_path) == (
        1,
        f"ImportError: {shown} hides the package `{shown.stem}` of tern-retrieval, which is in {ROOT}. Rename it, or "
        "move your script to another folder.",
    )


def test_files_that_hide_nothing_are_no_error(tmp_path):
    (tmp_path / "data").mkdir()  # a folder without `__init__.py` comes after all packages
    (tmp_path / "flows.py").write_text("")  # no other package imports `flows`
    assert run_script(tmp_path) == (0, "runs/demo")


def test_command_does_not_import_from_the_current_folder(tmp_path):
    (tmp_path / "data.py").write_text("")
    tern = Path(sys.executable).with_name("tern")
    if not tern.is_file():
        pytest.skip("the command `tern` is not installed beside this Python")
    assert run_script(tmp_path, str(tern), "--version")[1].startswith("tern ")
    status, message = run_script(tmp_path, "-m", "pipeline.cli", "--version")
    assert (status, "data.py hides the package `data`" in message) == (1, True)
