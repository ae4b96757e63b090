"""Every error that ends a command is one line with the next step; only a fault of the program writes a traceback."""

import errno
import os
import re
import subprocess
import sys
from concurrent.futures import BrokenExecutor

import pytest

from data.io import WriteError, atomic_write, describe_error
from data.text import LinesError
from pipeline.cli import app


def run_main(monkeypatch, capsys, error: BaseException | None, *words: str) -> tuple[int, str]:
    """Run `tern WORDS`, of which the command raises an error; return the exit code and all output."""

    def fail(*args, **kwargs):
        raise error

    if error is not None:
        monkeypatch.setattr(app, "build_app", lambda name: fail)
    monkeypatch.setattr(sys, "argv", ["tern", *words])
    with pytest.raises(SystemExit) as ended:
        app.main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out + captured.err


EXPECTED_ERRORS = {
    "the user's": (ValueError("bad\nname \x1b[2J\u202e"), r"error: bad\nname \x1b[2J\u202e"),
    "several lines": (LinesError("bad:", "a\nb", "c"), "error: bad:\na\\nb\nc"),
    "no permission": (PermissionError(errno.EACCES, "Permission denied", "a\x1b"), r"Change the permissions"),
    "folder": (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "Pass the path of a file"),
    "long name": (OSError(errno.ENAMETOOLONG, "File name too long", "a"), "Choose a shorter name"),
    "loop": (OSError(errno.ELOOP, "Too many levels of symbolic links", "a"), "Replace the symbolic links"),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "a"), "Mount the file system for writing"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded", "a"), "quota, then run the same command again: finished"),
    "open files": (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    "memory": (MemoryError(), "error: Memory is exhausted. Free memory, or pass `--set workers=1`"),
    "memory of torch": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you x"),
        "Memory is exhausted",
    ),
    "disk in a type of a library": (RuntimeError("write failed (errno = 28, error message = 'x')"), "Free disk space"),
    "lost worker": (BrokenExecutor("a worker was killed"), "error: a worker was killed"),
    "package": (ImportError("The flows need the extra `flows`."), "error: The flows need the extra `flows`."),
}


@pytest.mark.parametrize("name", EXPECTED_ERRORS)
def test_expected_error_is_reported_without_a_traceback(name, monkeypatch, capsys, tmp_path):
    error, message = EXPECTED_ERRORS[name]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, output = run_main(monkeypatch, capsys, error)
    assert code == 1
    assert message in output
    assert output.count("\n") == 1 + str(error).count("\n") * isinstance(error, LinesError)
    assert output.replace("\n", "").isprintable()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [KeyError("rsum"), TypeError("x\x1b"), RecursionError("deep"), AttributeError("a"), AssertionError(), EOFError()],
    ids=lambda error: type(error).__name__,
)
def test_fault_of_the_program_is_one_line_and_a_file_with_the_traceback(error, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, output = run_main(monkeypatch, capsys, error, "train", "--set", "x")
    assert code == 1
    assert output.count("\n") == 1
    assert output.rstrip("\n").isprintable()
    assert f"internal error: {type(error).__name__}" in output
    assert 'see "Report a fault" in CONTRIBUTING.md' in output
    (path,) = tmp_path.iterdir()
    assert str(path) in output
    text = path.read_text()
    assert "command: tern train --set x" in text
    assert "Traceback (most recent call last)" in text


def test_debug_prints_the_traceback_of_any_error(monkeypatch, capsys):
    code, output = run_main(monkeypatch, capsys, ValueError("bad"), "train", "--debug")
    assert (code, "Traceback (most recent call last)" in output) == (1, True)


def test_unwritable_folder_for_temporary_files_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    code, output = run_main(monkeypatch, capsys, KeyError("x"))
    assert (code, "run the command again with --debug" in output) == (1, True)


def test_interrupt_ends_with_130(monkeypatch, capsys):
    assert run_main(monkeypatch, capsys, KeyboardInterrupt()) == (130, "")


BAD_PLANS = {
    "not UTF-8": (b"\xff\xfe", "is not UTF-8 text"),
    "not TOML": (b"x = [[[", "is not valid TOML"),
    "a number for a table": (b"workspace = 'w'\ntrain = 5\n[demo]\n", "train: "),
    "a table for a number": (b"workers = {a = 1}\nworkspace = 'w'\n[demo]\n", "workers: "),
    "a list for a path": (b"workspace = ['w']\n[demo]\n", "workspace: "),
    "an evil key": (b'workspace = "w"\n"a\\u001b[2J\\u202e\\nb" = 1\n[demo]\n', r"a\x1b[2J\u202e\nb: unknown"),
    "nested too deeply": (b"x = " + b"[" * 5000, "is not valid TOML"),
    "a long number": (b"workers = " + b"1" * 5000, "is not valid TOML"),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_bad_plan_is_named_with_its_problem(name, tmp_path, monkeypatch, capsys):
    content, message = BAD_PLANS[name]
    path = tmp_path / "plan.toml"
    path.write_bytes(content)
    code, output = run_main(monkeypatch, capsys, None, "lineage", "--plan", str(path))
    assert code == 1
    assert str(path) in output
    assert message in output
    assert "Traceback" not in output
    assert "internal error" not in output
    assert output.replace("\n", "").isprintable()


def test_plan_that_is_a_folder_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "plan.toml").mkdir()
    code, output = run_main(monkeypatch, capsys, None, "lineage", "--plan", str(tmp_path / "plan.toml"))
    assert (code, "is a folder" in output) == (1, True)


# Each library meets a real limit on the size of files, and reports it in a type of its own.
WRITERS = """
import resource, sys
from pathlib import Path
from data.io import WriteError, atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with atomic_write(Path(sys.argv[1])) as path:
        {code}
except WriteError as error:
    print(error)
"""
LIBRARIES = {
    "torch": "import torch; torch.save(torch.zeros(100_000), open(path, 'wb'))",
    "safetensors": "import torch; from safetensors.torch import save_file; save_file({'a': torch.zeros(10**5)}, path)",
    "faiss": "import faiss, numpy as np; i = faiss.IndexFlatL2(64); i.add(np.zeros((5000, 64), 'float32'));"
    " faiss.write_index(i, str(path))",
    "h5py": "import h5py, numpy as np; h5py.File(path, 'w')['a'] = np.random.rand(10**6)",
    "numpy": "import numpy as np; np.save(open(path, 'wb'), np.zeros(10**6))",
    "parquet": "import numpy as np, pyarrow as pa, pyarrow.parquet as pq;"
    " pq.write_table(pa.table({'a': np.random.rand(10**6)}), path)",
    "sqlite": "from index.metadata.schema import Row; from index.metadata.tables import build_table, write_lookup;"
    " write_lookup(path, build_table('image', [Row('image', str(i), str(i), 'x' * 500) for i in range(2000)]))",
    "zip": "import os, zipfile; zipfile.ZipFile(path, 'w').writestr('a', os.urandom(10**6))",
    "python": "path.write_bytes(bytes(10**6))",
}


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_file_that_cannot_grow_is_a_write_error_in_every_library(library, tmp_path):
    path = tmp_path / "file.bin"
    path.write_text("before")
    code = WRITERS.format(code=LIBRARIES[library])
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    start, end = (
        re.escape(f"{path} cannot be written: "),
        re.escape("run the same command again: finished work is kept."),
    )
    assert re.fullmatch(rf"\[Errno \d+\] {start}.*{end}", ended.stdout.strip()), ended.stderr
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_write_error_keeps_other_errors(tmp_path):
    with pytest.raises(ValueError, match="bad row"), atomic_write(tmp_path / "a"):
        raise ValueError("bad row")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(WriteError, match="No space left on device"), atomic_write(tmp_path / "a"):
        raise RuntimeError("torch") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_described_errors_say_the_next_step_once():
    error = WriteError(errno.ENOSPC, "No space left on device", "last.pt")
    assert describe_error(error) == str(error)
    assert str(error).count("run the same command again") == 1


def run_tern(*words: str, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pipeline.cli", *words]
    options = {"capture_output": True, "text": True, "errors": "replace", "timeout": 120}
    return subprocess.run(command, check=False, **options, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}])
def test_output_in_any_locale_has_no_traceback(locale, tmp_path):
    ended = run_tern("store", "info", str(tmp_path / "日本é\udcff"), env={**os.environ, **locale})
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "error: No store at" in ended.stderr


@pytest.mark.slow
def test_closed_streams_and_missing_home_have_no_traceback(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    for redirection in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-", "| head -0", "2>&1 | true"):
        code = f"{sys.executable} -m pipeline.cli plans {redirection}"
        ended = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=environment, timeout=120)
        assert "Traceback" not in ended.stdout + ended.stderr, redirection
        assert "Exception ignored" not in ended.stdout + ended.stderr, redirection


@pytest.mark.slow
def test_full_disk_of_the_output_is_one_line():
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m pipeline.cli plans > /dev/full"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
