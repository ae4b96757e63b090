"""Foreign text reaches the terminal, logs and warnings as visible characters only."""

import ast
import logging
import subprocess
import sys

import pytest

from data.text import LinesError, PrintableRecord, printable
from pipeline.cli import echo
from tests.architecture.code import parse, product_files

EVIL = "a\x1b[2J\x1b[1;31mb\u202e\u2066c\nd\re\x07\x9bf\u2028g\udcff\x00\x7f"
SEEN = r"a\x1b[2J\x1b[1;31mb\u202e\u2066c\nd\re\x07\x9bf\u2028g\udcff\x00\x7f"
PRINTS = {
    "pipeline/cli/output.py",
    "pipeline/cli/search_output.py",  # JSON in ASCII, and on pipes the bytes of paths
    "pipeline/runs/torchrun_worker.py",
    "extractors/demo_detector/train.py",
}


def test_printable_shows_every_control_character():
    assert printable(EVIL) == SEEN
    assert all(printable(chr(number)).isprintable() for number in range(0x11_0000))


@pytest.mark.parametrize("err", [False, True])
def test_echo_prints_one_line_per_text(err, capsys):
    echo(EVIL, "second", err=err, color="red")
    captured = capsys.readouterr()
    assert (captured.err if err else captured.out) == f"{SEEN}\nsecond\n"


def test_lines_error_keeps_only_its_own_line_breaks():
    assert str(LinesError(EVIL, "second")) == f"{SEEN}\nsecond"


def test_records_of_this_project_are_one_visible_line():
    def record(name, error=None):
        info = (type(error), error, None) if error else None
        return PrintableRecord(name, logging.WARNING, "x.py", 1, "said %s", (EVIL,), info)

    assert record("index.search").getMessage() == f"said {SEEN}"
    assert record("other").getMessage() == "said " + SEEN.replace(r"\n", "\n")
    text = logging.Formatter("%(message)s").format(record("index.search", ValueError(EVIL)))
    assert text.replace("\n", "").isprintable()
    assert r"ValueError: a\x1b[2J" in text


def test_commands_print_only_through_echo():
    wrong = [
        f"{file}:{node.lineno}"
        for file in product_files()
        if file not in PRINTS
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "typer.echo", "typer.secho", "click.echo")
    ]
    assert not wrong, "print with `pipeline.cli.echo`"


@pytest.mark.slow
def test_usage_errors_and_warnings_are_visible_on_a_terminal(tmp_path):
    words = ["weights", "convert", "a", EVIL.replace("\x00", "").replace("\udcff", "")]
    ended = subprocess.run([sys.executable, "-m", "pipeline.cli", *words], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stderr.replace("\n", "").isprintable()
    code = f"from data.text import show_logs; show_logs(); import warnings, logging; warnings.warn({EVIL!r})"
    code += f"; logging.getLogger('tern').info('%s', {EVIL!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.stderr == f"warning: {SEEN}\n{SEEN}\n"
