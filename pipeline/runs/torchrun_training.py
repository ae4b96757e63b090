"""Training of a plan in several processes of this machine, by torchrun."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.runs.runner import OnEpoch, PipelineRunner
from tern.parallel import main_process_first, process_group, run_torchrun


def train_together(runner: PipelineRunner) -> Path:
    """Extract features and train, in each process that torchrun started. Returns the folder of the model.

    The main process extracts the features first; the others wait, and then find the stores finished. The same holds
    for the import of a checkpoint. Without torchrun this process does all of it.
    """
    with process_group():
        with main_process_first():
            features = runner.extract(runner.load_dataset())
            if runner.plan.checkpoint is not None:
                return runner.train(features)
        return runner.train(features)


def train_with_torchrun(
    num_processes: int,
    plan: str,
    overrides: Sequence[str],
    on_epoch: OnEpoch,
    on_message: Callable[[str], None],
) -> None:
    """Start torchrun, and train the model of a plan in several processes of this machine.

    Args:
        num_processes: Number of processes, at least 1.
        plan: Plan file, or the name of a shipped plan. Each process reads it.
        overrides: Settings of the plan, each `KEY=VALUE`.
        on_epoch: Called with each row of the training history.
        on_message: Called with each other line that the processes print.

    Raises:
        Exception: The processes failed; see `tern.parallel.run_torchrun`.
    """
    for line in run_torchrun(num_processes, "pipeline.runs.torchrun_worker", plan, *overrides):
        if (row := _parse_row(line)) is None:
            on_message(line)
        else:
            on_epoch(row)


def _parse_row(line: str) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
