"""Every command prints names, captions and paths of the user's files as visible characters, each on its line."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.main import get_command

from pipeline.cli import app
from pipeline.plans import load_plan
from pipeline.runs.runner import PipelineRunner
from tests.helpers.small_plan import SMALL

pytestmark = pytest.mark.slow

EVIL = "e\x1b[2J\u202e\nFORGED\r\x9b"  # a caption, a file of an image, a name of a dataset
SEEN = r"e\x1b[2J\u202e\nFORGED\r\x9b"
# Commands that do not end, or start other programs; test_follow.py covers what `run` prints.
EXCLUDED = {"demo": "pipeline", "serve": "serves", "mcp": "serves", "up": "serves", "run": "needs a server"}


@pytest.fixture(scope="module")
def world(finished_pipeline, tmp_path_factory) -> Path:
    """A folder with a finished plan of evil names, and files for the commands that take one.

    The folder itself has a plain name, because a plan refuses paths with control characters.
    """
    root = tmp_path_factory.mktemp("world") / "world"
    source = finished_pipeline.plan.workspace / "dataset"
    shutil.copytree(source / "images", root / "images")
    annotations = json.loads(next(source.glob("*.json")).read_text())
    for record in annotations["images"]:
        record["sentences"][0]["raw"] = f"{EVIL} {record['sentences'][0]['raw']}"
    name = annotations["images"][-1]["filename"]
    (root / "images" / name).rename(root / "images" / f"{EVIL}.jpg")
    annotations["images"][-1]["filename"] = f"{EVIL}.jpg"
    (root / "captions.json").write_text(json.dumps(annotations))
    head, rest = SMALL.format(workspace="WORKSPACE", workers=1).split("[demo]")
    quoted = {
        key: json.dumps(str(value)).replace("\x7f", "\\u007f")
        for key, value in {
            "workspace": root / "run",
            "name": EVIL,
            "annotations": root / "captions.json",
            "images": root / "images",
        }.items()
    }
    dataset = "".join(f"{key} = {quoted[key]}\n" for key in ("name", "annotations", "images"))
    plan = (
        head.replace('"WORKSPACE"', quoted["workspace"])
        + f"[dataset]\n{dataset}\n[regions]"
        + rest.partition("[regions]")[2]
    )
    (root / "plan.toml").write_text(plan)
    PipelineRunner(load_plan(str(root / "plan.toml"))).run_all()
    header = {"origin": EVIL, EVIL: "x", "classes": json.dumps([EVIL, "dog"])}
    save_file({"a": np.zeros(1, np.float32)}, root / "weights.safetensors", metadata=header)
    with open(root / "run" / "index" / "events.jsonl", "a") as file:
        file.write("\n" + json.dumps({"utc": EVIL, "event": EVIL}) + "\n")
    return root


SHOW_NAMES = {"pipeline", "extract", "index info", "weights info"}
COMMANDS = {
    "pipeline": ["--plan", "PLAN"],
    "extract": ["--plan", "PLAN"],
    "train": ["--plan", "PLAN"],
    "evaluate": ["--plan", "PLAN"],
    "search": [EVIL, "--plan", "PLAN", "--gallery", "ROOT/gallery.html", "--force"],
    "report": ["--plan", "PLAN"],
    "misses": ["--plan", "PLAN", "--force"],
    "duplicates": ["--plan", "PLAN", "--output", "ROOT/copies.html", "--force"],
    "photos": [f"ROOT/{EVIL}"],
    "model export": ["--plan", "PLAN", "--output", "ROOT/package", "--force"],
    "model info": ["ROOT/package"],
    "model verify": ["ROOT/package"],
    "model import": ["ROOT/weights.safetensors", "--plan", "PLAN", "--output", "ROOT/imported-model"],
    "plans": [],
    "lineage": ["--plan", "PLAN", "--all"],
    "index": ["--plan", "PLAN"],
    "index build": ["--plan", "PLAN"],
    "index tune": ["--plan", "PLAN"],
    "index update": ["--plan", "PLAN"],
    "index compact": ["--plan", "PLAN"],
    "index verify": ["--plan", "PLAN"],
    "index info": ["--plan", "PLAN"],
    "index publish": ["1", "--plan", "PLAN"],
    "index rollback": ["1", "--plan", "PLAN"],
    "index tags": ["--plan", "PLAN", "--add", EVIL],
    "index gc": ["--plan", "PLAN", "--dry-run"],
    "index export": ["ROOT/exported", "--plan", "PLAN", "--force"],
    "index import": ["ROOT/images", "--output", "ROOT/imported"],
    "store info": ["STORE"],
    "store verify": ["STORE"],
    "store compact": ["STORE"],
    "store export": ["STORE", "--format", "lxmert-tsv", "--output", "ROOT/obj36.tsv", "--force"],
    "store import": ["ROOT/images", "--output", "ROOT/stores"],
    "weights info": ["ROOT/weights.safetensors"],
    "weights convert": ["ROOT/weights.safetensors", "ROOT/out.safetensors"],
}


def run_main(words: list[str], monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", ["tern", *words])
    with suppress(SystemExit):
        app.main()
    captured = capsys.readouterr()
    return captured.out + captured.err


def check_visible(output: str) -> None:
    lines = output.split("\n")
    assert all(line.isprintable() for line in lines), [line for line in lines if not line.isprintable()][:3]
    assert not [line for line in lines if line.startswith("FORGED")]
    assert "Traceback" not in output
    assert "internal error" not in output


@pytest.mark.parametrize("command", COMMANDS)
def test_command_prints_evil_names_visibly(command, world, monkeypatch, capsys):
    store = next((world / "run" / "stores").glob("regions-*"))
    values = {"PLAN": str(world / "plan.toml"), "STORE": str(store)}
    words = [values.get(word, word.replace("ROOT", str(world))) for word in COMMANDS[command]]
    output = run_main([*command.split(), *words], monkeypatch, capsys)
    assert output
    assert command not in SHOW_NAMES or SEEN in output
    check_visible(output)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_reports_evil_paths_visibly(command, tmp_path, monkeypatch, capsys):
    missing = str(tmp_path / f"{EVIL}.toml")
    words = [missing if word in ("PLAN", "STORE") or "ROOT" in word else word for word in COMMANDS[command]]
    check_visible(run_main([*command.split(), *words], monkeypatch, capsys))


def iter_commands(command, words: tuple[str, ...] = ()) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if words and (not children or words == ("index",)):
        yield " ".join(words)
    for name, child in children.items():
        yield from iter_commands(child, (*words, name))


def test_every_command_is_tried():
    assert set(iter_commands(get_command(app.build_app()))) == {*COMMANDS, *EXCLUDED}
