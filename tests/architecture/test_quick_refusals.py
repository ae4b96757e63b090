"""A command that cannot do its work says so before it imports the heavy libraries."""

import importlib.util
from pathlib import Path

import pytest

from index.versions import rollback
from tests.helpers.light_starts import END, make_workspace, run_code, run_commands
from tests.helpers.small_plan import small_plan

pytestmark = pytest.mark.slow

RUN = """
import sys
from pipeline.cli.app import main
sys.stderr = sys.stdout
for words in COMMANDS:
    sys.argv = ["tern", *words]
    try:
        main()
    except SystemExit as end:
        assert end.code, (words, "the command succeeded")
    print(END)
"""
HEAVY = "numpy torch torchvision faiss h5py transformers PIL matplotlib prefect fastapi"
SEARCH = HEAVY.replace("numpy ", "")  # a filter is parsed with pyarrow, which imports numpy
PLANS = "shipped plans are coco, demo, flickr30k-bottom-up, flickr30k, flickr8k"
COMMANDS = (
    "search x",
    "serve",
    "report",
    "misses",
    "duplicates",
    "lineage",
    "extract",
    "train",
    "evaluate",
    "pipeline",
    "index",
    "index build",
    "index update",
    "index tune",
    "index info",
    "index compact",
    "extract --dry-run",
    "run reindex",
)


def refuse(*commands: list[str], allowed_libraries: str = HEAVY) -> list[str]:
    """Run commands that fail, one after the other in one new process; return the message of each."""
    start = run_code(f"COMMANDS, END = {commands!r}, {END!r}{RUN}")
    assert start.imported(allowed_libraries) == [], commands
    assert len(start.outputs) == len(commands)
    return start.outputs


def test_unknown_plan_is_answered_with_the_plans_at_once():
    commands = [command for command in COMMANDS if not command.startswith("run") or importlib.util.find_spec("prefect")]
    messages = refuse(*([*command.split(), "--plan", "nope"] for command in commands))
    assert [command for command, message in zip(commands, messages, strict=True) if PLANS not in message] == []


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> str:
    """A plan whose workspace has stores and an index of two versions, but no model."""
    folder = tmp_path_factory.mktemp("refusals")
    make_workspace(folder / "run")
    return str(small_plan(folder))


REFUSALS = (
    (["search", "x", "--where", "splitt = 'a'"], "Columns are id, image_id, text, path, split, width, height"),
    (["search", "x", "--where", "a = "], "there is no column 'a': columns are"),
    (["search", "x", "--version", "9"], "There is no version 9"),
    (["search", "x", "--version", "prod"], "is not a version and not a tag"),
    (["search", "--image", "gone.jpg"], "The photo gone.jpg does not exist"),
    (["search", "--queries", "gone.txt", "--where", "id = 'a'"], "The file of queries gone.txt does not exist"),
    (["search", "--vector", "gone.npy", "--like", "a"], "The file of vectors gone.npy does not exist"),
    (["misses"], "There are no vectors of a trained model"),
    (["index", "tune"], "There are no vectors of a trained model"),
    (["index", "tune", "--kind", "video"], "--kind must be one of image, caption"),
)


def test_request_that_no_model_can_answer_is_refused_at_once(plan):
    messages = refuse(*([*command, "--plan", plan] for command, _ in REFUSALS), allowed_libraries=SEARCH)
    for (command, expected), message in zip(REFUSALS, messages, strict=True):
        assert expected in message, command


def test_empty_workspace_is_described_at_once(tmp_path):
    commands, plan = ("search x", "serve", "report", "index update", "misses", "duplicates"), small_plan(tmp_path)
    messages = refuse(*([*command.split(), "--plan", str(plan)] for command in commands))
    for command, message in zip(commands, messages, strict=True):
        assert f"{tmp_path / 'run'} has no outputs yet. Run `tern " in message, command
    assert not (tmp_path / "run").exists()


def test_contents_of_a_workspace_are_named(tmp_path):
    make_workspace(tmp_path / "run")
    (tmp_path / "run" / "index" / "CURRENT").unlink()
    (message,) = refuse(["report", "--plan", str(small_plan(tmp_path))])
    assert "has region features, token features, but not a trained model and vectors. Run `tern index" in message


def test_pinned_version_is_marked(tmp_path):
    root: Path = make_workspace(tmp_path / "run") / "index"
    rollback(root, 1)
    start = run_commands(["index", "info", "--index", root])
    assert "version 1    published, pinned by a rollback" in start.output
