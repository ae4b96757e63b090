"""`tern search --preview`: thumbnails of hits in the protocols of terminals, which are asked what they can draw."""

import base64
import io
import os
import re
import select
import subprocess
import sys
import termios

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli.app import build_app
from pipeline.pages.preview import NUM_LINES, TerminalPreview, open_terminal_preview
from pipeline.search.hits import Hit
from tests.helpers.light_starts import ROOT

renderable = pytest.importorskip("textual_image.renderable", reason="the extra `preview` is not installed")

RED, BLUE = (220, 20, 30), (20, 40, 220)
DRAW = """
import sys
from pathlib import Path
from pipeline.pages.preview import open_terminal_preview
from pipeline.search.hits import Hit
open_terminal_preview().print_thumbnail(Hit("a", 0.5, Path(sys.argv[1]), ()))
"""


@pytest.fixture
def hit(tmp_path):
    """A hit whose image is red above and blue below."""
    picture = Image.new("RGB", (80, 60), RED)
    picture.paste(BLUE, (0, 30, 80, 60))
    picture.save(tmp_path / "flag.png")
    return Hit("flag", 0.5, tmp_path / "flag.png", ())


def draw(hit, make_image, monkeypatch) -> str:
    """Return what is written to the terminal."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", written)  # the library sends the data of kitty's protocol there
    console = Console(file=written, force_terminal=True, color_system="truecolor", width=80)
    TerminalPreview(make_image, console).print_thumbnail(hit)
    return written.getvalue()


def test_half_blocks_have_the_colors_of_the_image(hit, monkeypatch):
    lines = draw(hit, renderable.HalfcellImage, monkeypatch).splitlines()
    assert len([line for line in lines if "▀" in line]) == NUM_LINES
    for line, color in ((lines[0], RED), (lines[NUM_LINES - 1], BLUE)):
        found = re.search(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", line).groups()
        assert all(abs(int(value) - expected) < 12 for value, expected in zip(found, color * 2, strict=True))


def test_kitty_gets_the_image_as_png_with_placeholders_of_its_number(hit, monkeypatch):
    written = draw(hit, renderable.TGPImage, monkeypatch)
    parts = re.findall(r"\x1b_Gi=(\d+),m=[01],f=100,q=2;([A-Za-z0-9+/=]+)\x1b\\", written)
    picture = Image.open(io.BytesIO(base64.b64decode("".join(part for _, part in parts)))).convert("RGB")
    assert all(abs(a - b) < 12 for a, b in zip(picture.getpixel((5, 5)), RED, strict=True))
    number = int(parts[0][0])
    color = f"\x1b[38;2;{number >> 16 & 255};{number >> 8 & 255};{number & 255}m"
    lines = [line for line in written.splitlines() if "\U0010eeee" in line]
    assert len(lines) == NUM_LINES
    assert all(color in line for line in lines), "the 24 bits of the number are not reduced"


def test_sixels_are_one_device_control_string(hit, monkeypatch):
    written = draw(hit, renderable.SixelImage, monkeypatch)
    (data,) = re.findall(r"\x1bP[0-9;]*q(.*?)\x1b\\", written, re.DOTALL)
    assert re.match(r'"1;1;\d+;\d+', data)
    assert re.search(r"#\d+;2;8[4-8];\d+;1\d", data), "the red of the image, in percent"


def draw_in_terminal(path, answers, size=(24, 80), status=0, **variables) -> bytes:
    """Run a process on a terminal that answers questions (bytes -> bytes); return what it writes."""
    mine, its = os.openpty()
    termios.tcsetwinsize(its, size)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **variables}
    process = subprocess.Popen(
        [sys.executable, "-c", DRAW, str(path)], stdin=its, stdout=its, stderr=its, env=environment, close_fds=True
    )
    os.close(its)
    written = b""
    while select.select([mine], [], [], 60)[0]:
        try:
            part = os.read(mine, 1 << 16)
        except OSError:  # the process has ended
            break
        written += part
        for question, answer in answers.items():
            if question in part:
                os.write(mine, answer)
    os.close(mine)
    assert process.wait(60) == status, written.decode(errors="replace")
    return written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({b"\x1b[c": b"\x1b[?62;4;22c"}, b"\x1bP"),
        ({b"\x1b[c": b"\x1b[?62;22c", b"a=q": b"\x1b_Gi=1;OK\x1b\\"}, "\U0010eeee".encode()),
        ({b"\x1b[c": b"\x1b[?62;22c"}, "▀".encode()),
    ],
    ids=["Sixel", "kitty", "colors only"],
)
def test_terminal_is_asked_what_it_can_draw(hit, answers, expected):
    written = draw_in_terminal(hit.path, answers, COLORTERM="truecolor")
    protocols = [mark for mark in (b"\x1bP", "\U0010eeee".encode(), "▀".encode()) if mark in written]
    assert protocols == [expected]


@pytest.mark.slow
def test_terminal_that_cannot_show_thumbnails_is_named(hit):
    answers = {b"\x1b[c": b"\x1b[?62;22c"}
    written = draw_in_terminal(hit.path, answers, status=1, NO_COLOR="1")
    assert b"TERM or NO_COLOR says that it has none" in written
    written = draw_in_terminal(hit.path, answers, (0, 0), status=1)
    assert b"The terminal reports 0 columns and 0 rows" in written


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    monkeypatch.setitem(sys.modules, "textual_image.renderable", None)
    with pytest.raises(ImportError, match=r"--preview needs the extra `preview`\. Run `python -m pip install"):
        open_terminal_preview()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json"], "--preview draws in the table of hits. Leave out --json and --paths, or --preview."),
        (["--paths"], "--preview draws in the table of hits. Leave out --json and --paths, or --preview."),
        ([], "standard input or output is not a terminal"),
    ],
)
def test_preview_without_a_table_on_a_terminal_is_refused(words, message):
    words = ["search", "a dog", "--preview", *words, "--plan", "no-such-plan"]
    result = CliRunner(env={"COLUMNS": "300"}).invoke(build_app(), words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
