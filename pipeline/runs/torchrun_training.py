"""Training a plan in several processes, under a caller that watches it: rows of the history come back as JSON lines."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.runs.workers import make_process_map
from tern.parallel import run_torchrun


def train_with_torchrun(
    num_processes: int,
    chain: PipelineRunner,
    plan: str,
    settings: Sequence[str],
    on_epoch: Callable[[dict[str, float]], None],
    on_message: Callable[[str], None],
) -> Path:
    """Train the chain's model in so many processes of this machine; returns the model's folder.

    plan, settings  what the chain's plan was read from: each process reads it itself
    on_epoch        sees the rows of the history
    say             gets the other lines that the processes print

    Raises what `tern.launch.failure` says if they fail.
    """
    _ = chain.regions, chain.tokens  # made here, by the chain's own map
    for line in run_torchrun(num_processes, "pipeline.runs.torchrun_training", plan, *settings):
        if (row := _row(line)) is None:
            on_message(line)
        else:
            on_epoch(row)
    return chain.model  # found made


def _row(line: str) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def main() -> None:
    """One of the processes: PLAN KEY=VALUE ..."""
    plan = load_plan(sys.argv[1], tuple(sys.argv[2:]))
    each = lambda label: make_process_map(plan.workers, label)  # noqa: E731
    _ = PipelineRunner(plan, each, lambda row: print(json.dumps(row), flush=True)).model


if __name__ == "__main__":
    main()
