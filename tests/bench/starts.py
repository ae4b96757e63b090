"""CPU seconds that light commands take, process start included, against the finished workspace of a small plan."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.helpers.small_plan import small_plan

REPEATS = 5
TERN = [sys.executable, "-c", "from pipeline.cli.app import main; main()"]  # what the console script runs


def starts(folder: Path) -> None:
    """Print the median CPU seconds of each command, and the difference to an empty Python process."""
    plan = str(small_plan(folder))
    subprocess.run([*TERN, "pipeline", "--plan", plan], check=True, capture_output=True)
    store = next((folder / "run" / "stores").glob("regions-*"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "tern --version": [*TERN, "--version"],
        "tern --help": [*TERN, "--help"],
        "tern plans": [*TERN, "plans"],
        "tern index info": [*TERN, "index", "info", "--plan", plan],
        "tern index tags": [*TERN, "index", "tags", "--plan", plan],
        "tern lineage": [*TERN, "lineage", "--plan", plan],
        "tern store info": [*TERN, "store", "info", str(store)],
        "import flows.flows": [sys.executable, "-c", "import flows.flows"],
        'load_plan("demo")': [sys.executable, "-c", "from pipeline.plans import load_plan; load_plan('demo')"],
    }
    seconds = {name: _median_cpu_seconds(command) for name, command in commands.items()}
    table = Table(
        "command",
        "CPU s",
        "above an empty process",
        title=f"starts, median of {REPEATS} after one warm-up",
        title_justify="left",
    )
    for name, value in seconds.items():
        table.add_row(name, f"{value:.2f}", f"{value - seconds['python -c pass']:.2f}")
    Console().print(table)


def _median_cpu_seconds(command: list[str]) -> float:
    """Return the median CPU seconds of a command, user and system time of the process and its children."""
    measured = [_cpu_seconds(command) for _ in range(1 + REPEATS)]
    return float(np.median(measured[1:]))


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
