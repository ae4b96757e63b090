"""Options that several commands share, and functions that resolve their values: plan, runner, index, version, store."""

import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import echo

if TYPE_CHECKING:
    from pipeline.plans.plan import Plan
    from pipeline.runs import PipelineRunner
    from pipeline.stages import Vectors
    from tern.training import EpochProgress


MAX_INVALID_PRINTED = 20
PlanOption = Annotated[
    str,
    typer.Option(
        "--plan", "-p", help="Plan: path of a .toml file, name of a shipped plan, or folder that `tern photos` indexed."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Setting of the plan to change, such as train.seed=1. Can be repeated."
    ),
]
IndexOption = Annotated[
    Path | None, typer.Option("--index", help="Folder of the index; by default, that of the plan's workspace.")
]
VersionArgument = Annotated[str, typer.Argument(help="Version number or tag; by default, the published version.")]
VersionOption = Annotated[
    str, typer.Option("--version", help="Version number or tag; by default, the published version.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
StoreArgument = Annotated[
    Path,
    typer.Argument(
        help="Folder of a store, such as runs/demo/stores/regions-..., or its manifest.json.", show_default=False
    ),
]


DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print which stages have work to do, why and how long, and write nothing to the workspace. Missing "
        "weights are downloaded.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option("--model", help="Name of a trained model with vectors; by default, that of the published version."),
]


def load_selected_plan(plan: str, overrides: list[str] | None) -> "Plan":
    """Load the plan that `--plan` names, with the settings that `--set` changes."""
    from pipeline.plans.load import load_plan

    return load_plan(plan, tuple(overrides or ()))


def check_port_is_free(host: str, port: int) -> None:
    """Raise ValueError if a program listens on a port."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        raise ValueError(f"Port {port} is in use. Stop the program that listens there, or pass another --port.")


def make_runner(plan: str, overrides: list[str] | None, allow_torchrun: bool = False) -> "PipelineRunner":
    """Make the runner of a plan, with worker processes and progress on the terminal.

    Raises:
        ValueError: The process was started by `torchrun`, and the command does not support it.
    """
    loaded = load_selected_plan(plan, overrides)  # before torch is imported: an invalid plan is reported at once
    from pipeline.runs import PipelineRunner
    from pipeline.workers import make_process_map
    from tern.parallel import is_torchrun

    if is_torchrun() and not allow_torchrun:
        raise ValueError(
            "Only `train` can run under torchrun. Train with torchrun first, then run this command without torchrun."
        )
    _print_training_messages()
    return PipelineRunner(loaded, lambda stage: make_process_map(loaded.workers, stage), print_epoch)


class _EchoHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        echo(self.format(record), err=True)


def _print_training_messages() -> None:
    """Print what a training logs, such as its size, its settings and from where it resumes, on standard error."""
    logger = logging.getLogger("tern.training")
    if not logger.handlers:
        logger.addHandler(_EchoHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False  # torchrun prints what reaches the root logger


def print_preview(
    plan: str, overrides: list[str] | None, stages: Sequence[str] | None = None, model: Path | None = None
) -> None:
    """Print what the stages of a run would do; all stages if `stages` is None."""
    loaded = load_selected_plan(plan, overrides)
    from pipeline.runs import ALL_STAGES, preview_stages

    rows = [preview.row() for preview in preview_stages(loaded, ALL_STAGES if stages is None else stages, model)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    echo("dry run: nothing was written")


def read_existing_vectors(plan: "Plan", model: str) -> "Vectors":
    """Read the vectors that the workspace of a plan has of a model, or of the published version if it is empty."""
    from pipeline.workspace import Workspace, check_has_vectors

    check_has_vectors(Workspace(plan.workspace))  # before torch is imported
    from pipeline.runs import read_vectors

    return read_vectors(plan, model or None, print_message)


def print_message(text: str) -> None:
    """Print a line about the work on standard error."""
    echo(text, err=True)


def make_vectors(runner: "PipelineRunner") -> "Vectors":
    """Run the stages of a plan from the dataset to the vectors."""
    features = runner.extract(runner.load_trainable_dataset())
    return runner.embed(features, runner.train(features))


def check_page_option(path: Path, suffixes: tuple[str, ...], force: bool, plan: "Plan | None") -> None:
    """Check a page or picture that an option names, before anything is computed for it.

    Raises:
        FileExistsError: The file exists, and `force` is false.
        ValueError: The path has another ending, is a folder, or is in the folder of images.
    """
    from data.io import check_output_file, is_within

    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} does not end in {' or '.join(suffixes)}. Pass a name with such an ending.")
    if plan is not None and plan.dataset is not None and is_within(path, plan.dataset.images):
        raise ValueError(
            f"{path} is in the folder of images {plan.dataset.images}, where it would become an image of the "
            "dataset. Pass a path outside of it."
        )
    check_output_file(path, force)


def print_warning(text: str) -> None:
    """Print a warning as one line on standard error."""
    echo(f"warning  {text}", color="yellow", err=True)


def print_invalid_records(records: "Sequence[tuple[str, str]]", rest: str) -> None:
    """Print the first invalid records, each with its reason, on standard error.

    Args:
        records: Name and reason of each record.
        rest: Where to find those that are not printed.
    """
    for name, reason in records[:MAX_INVALID_PRINTED]:
        echo(f"invalid  {name}: {reason}", color="yellow", err=True)
    if (hidden := len(records) - MAX_INVALID_PRINTED) > 0:
        echo(f"invalid  {hidden:,} more; {rest}", color="yellow", err=True)


def print_epoch(progress: "EpochProgress") -> None:
    """Print the progress of a training after an epoch, as one line on standard error."""
    epoch, seconds = progress.epoch, progress.seconds_left
    metrics = epoch.validation
    left = f"{seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.0f} s"
    recall = (
        f"val R@1 {metrics.t2i.r1:5.1f} text to image, {metrics.i2t.r1:5.1f} image to text, rsum {metrics.rsum:5.1f} "
        f"(chance {progress.chance_rsum:.1f}, {progress.val_images:,} images, {progress.val_captions:,} captions)"
    )
    head = f"epoch {epoch.epoch:>3}/{progress.num_epochs}  loss {epoch.loss:9.3f}"
    echo(f"{head}  {recall}  {progress.seconds:4.1f} s, {left} left", err=True)


def resolve_index_root(plan: str, overrides: list[str] | None, index: Path | None) -> Path:
    """Return the folder of the index that `--index`, or else the plan, names.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    root = index if index is not None else load_selected_plan(plan, overrides).workspace / "index"
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not contain an index. Run `tern index` first.")
    return root


def resolve_version_option(root: Path, version: str) -> int | None:
    """Return the number of the version that an option names, or None if the option is empty."""
    from index.versions import resolve_version

    return resolve_version(root, version) if version else None


def resolve_store_folder(path: Path) -> Path:
    """Return the folder of the store that an argument names, by the folder or by its manifest."""
    return path.parent if path.name == "manifest.json" else path
