"""Run a command of `tern` in a process of its own, and report the libraries it imported.

Used by tests/architecture/test_light_starts.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.manifest.manifest import open_or_create_store
from data.manifest.schema import Item, ShardPlan
from data.store import write_shard
from data.store.writing import commit
from index.building.build import build_index
from index.collection import IndexInputs
from index.config import IndexConfig
from tests.helpers.index_world import make
from tests.helpers.region_files import fill, some

ROOT = Path(__file__).parents[2]
RUN_COMMANDS = """
import sys
from pipeline.cli.app import build_app
for words in COMMANDS:
    try:
        build_app(words[0])(words, prog_name="tern")
    except SystemExit as end:
        assert not end.code, (words, end.code)
    print(END)
"""
END = "-- end of a command --"
REPORT = """
import json, sys
print(json.dumps(sorted(sys.modules)))
"""


@dataclass(frozen=True)
class Start:
    """Output of a process and the names of the modules it imported."""

    output: str
    modules: frozenset[str]

    @property
    def outputs(self) -> list[str]:
        """Output of each command of `run_commands`."""
        *outputs, rest = self.output.split(END)
        assert not rest.strip()
        return [output.strip() for output in outputs]

    def imported(self, libraries: str) -> list[str]:
        """List those of the libraries (names separated by spaces) that the process imported."""
        return sorted(set(libraries.split()) & self.modules)


def run_code(code: str) -> Start:
    """Run Python code in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output, _, report = done.stdout.rstrip("\n").rpartition("\n")
    return Start(output, frozenset(json.loads(report)))


def run_commands(*commands: Sequence[str | Path]) -> Start:
    """Run commands of `tern`, one after the other, in one new process."""
    words = [[str(word) for word in command] for command in commands]
    return run_code(f"COMMANDS, END = {words!r}, {END!r}{RUN_COMMANDS}")


def make_workspace(workspace: Path) -> Path:
    """Make a workspace with a region store, a token store, and an index of two versions; no model is trained."""
    regions = fill(workspace / "stores", some(3))
    tokens = open_or_create_store(workspace / "stores", "tokens", {"model": "test"}, "float16")
    rows = {"features": np.ones((2, 6), "f2"), "token_ids": np.ones(2, "i4"), "full_length": np.array(2, "i4")}
    commit(tokens, [write_shard(tokens, ShardPlan((Item("7#0", "a" * 64),)), [rows])])
    inputs = IndexInputs(*make(images=60), {"model": "tern-0", "regions": regions.name, "tokens": tokens.name})
    for seed in (0, 1):
        build_index(IndexConfig(nlist=1, shards=1, seed=seed), inputs, workspace / "index")
    return workspace
