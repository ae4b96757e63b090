"""Training of a plan in several processes of this machine, by torchrun."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipeline.runs.runner import PipelineRunner
from pipeline.stages.results import Features

if TYPE_CHECKING:
    from tern.training import EpochProgress, OnEpoch


def train_together(runner: PipelineRunner, on_features: Callable[[Features], None] | None = None) -> Path:
    """Extract features and train, in each process that torchrun started. Returns the folder of the model.

    The main process extracts the features first; the others wait, and then find the stores finished. The same holds
    for the import of a package or a checkpoint. Without torchrun this process does all of it.

    Args:
        runner: Runner of the plan.
        on_features: Called by the main process after the extraction.
    """
    # lazy: torch takes seconds to import, and other runs need none
    from tern.parallel import is_main_process, main_process_first, process_group  # lazy: torch takes seconds to import

    with process_group():
        with main_process_first():
            features = runner.extract(runner.load_trainable_dataset())
            if on_features is not None and is_main_process():
                on_features(features)
            if not runner.plan.trains_model:
                return runner.train(features)
        return runner.train(features)


def train_with_torchrun(
    num_processes: int,
    plan: str,
    overrides: Sequence[str],
    on_epoch: "OnEpoch",
    on_message: Callable[[str], None],
) -> None:
    """Start torchrun, and train the model of a plan in several processes of this machine.

    Args:
        num_processes: Number of processes, at least 1.
        plan: Plan file, or the name of a shipped plan. Each process reads it.
        overrides: Settings of the plan, each `KEY=VALUE`.
        on_epoch: Called with the progress of each epoch.
        on_message: Called with each other line that the processes print.

    Raises:
        Exception: The processes failed; see `tern.parallel.run_torchrun`.
    """
    from tern.parallel import run_torchrun  # lazy: as above

    for line in run_torchrun(num_processes, "pipeline.runs.torchrun_worker", plan, *overrides):
        if (progress := _parse_progress(line)) is None:
            on_message(line)
        else:
            on_epoch(progress)


def _parse_progress(line: str) -> "EpochProgress | None":
    from tern.training import EpochProgress  # lazy: as above

    try:
        return EpochProgress.model_validate_json(line)
    except ValidationError:
        return None
