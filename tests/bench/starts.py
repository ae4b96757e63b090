"""CPU seconds from the start of a command of `tern` to its end; the limit is 0.6 for those that read only manifests."""

import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.helpers.light_starts import make_workspace, run_code, run_commands

REPEATS = 5
MAX_CPU_SECONDS = 0.6
LIMITED = ("tern --help", "tern plans", "tern index info", "tern lineage")


def starts(folder: Path) -> None:
    """Print the median CPU seconds of each command, in a process of its own, and the number of imported modules."""
    workspace = make_workspace(folder / "starts")
    index, store = workspace / "index", next((workspace / "stores").glob("regions-*"))
    runs = {
        "tern --version": lambda: run_commands(["--version"]),
        "tern --help": lambda: run_commands(["--help"]),
        "tern plans": lambda: run_commands(["plans"]),
        "tern index info": lambda: run_commands(["index", "info", "--index", index]),
        "tern index tags": lambda: run_commands(["index", "tags", "--index", index]),
        "tern lineage": lambda: run_commands(["lineage", "--set", f"workspace={workspace}"]),
        "tern store info": lambda: run_commands(["store", "info", store]),
        'load_plan("demo")': lambda: run_code("from pipeline.plans import load_plan; load_plan('demo')\n"),
        "import flows.flows": lambda: run_code("import flows.flows\n"),
    }
    table = Table("command", "CPU s", "limit", "modules", title="starts", title_justify="left")
    for name, run in runs.items():
        results = [run() for _ in range(REPEATS)]
        seconds = statistics.median(result.cpu_seconds for result in results)
        limit = f"{MAX_CPU_SECONDS}" if name in LIMITED else ""
        table.add_row(name, f"{seconds:.2f}", limit, f"{len(results[0].modules):,}")
    Console().print(table)
