"""Stage log of a workspace: one JSON line per stage that ran, with its duration. Reports and estimates read it."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.workspace import Workspace


class StageEntry(BaseModel):
    """One run of a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stage: str
    """Name of the stage, for instance `region features`."""
    seconds: float
    """Duration of the run, in seconds of wall-clock time."""
    output: str
    """Name of the folder or file that the stage returned."""
    items: int | None = None
    """Number of items that were extracted; None for stages that do not extract."""
    copied: int | None = None
    """Number of items that were copied, because their content was moved or copied; None: none."""


def append_entry(workspace: Workspace, entry: StageEntry) -> None:
    """Append an entry to the stage log."""
    workspace.root.mkdir(parents=True, exist_ok=True)
    with open(workspace.stage_log, "a", encoding="utf-8") as file:
        # The newline comes first as well: a killed run may have left an incomplete last line.
        file.write("\n" + entry.model_dump_json(exclude_none=True) + "\n")


def read_stage_seconds(workspace: Workspace) -> dict[tuple[str, str], float]:
    """Read the duration of each stage from the stage log.

    Returns:
        Seconds of the longest run by (stage, output). The longest run is the one that produced the output, or most of
        it. The others found it finished.
    """
    seconds: dict[tuple[str, str], float] = {}
    for entry in _iter_entries(workspace.stage_log):
        key = (entry.stage, entry.output)
        seconds[key] = max(entry.seconds, seconds.get(key, 0.0))
    return seconds


def longest_seconds(workspace: Workspace, stage: str) -> float | None:
    """Return the seconds of the longest run of a stage, whatever it returned; None if there was none."""
    return max((entry.seconds for entry in _iter_entries(workspace.stage_log) if entry.stage == stage), default=None)


def seconds_per_item(workspace: Workspace, stage: str, output: str) -> float | None:
    """Compute the mean extraction time per item of one output over all runs in the stage log.

    Args:
        workspace: Workspace of the stage log.
        stage: Name of the stage.
        output: Name of the folder that the stage wrote.

    Returns:
        Seconds per item, or None if no logged run extracted an item of this output.
    """
    runs = [
        (entry.seconds, entry.items)
        for entry in _iter_entries(workspace.stage_log)
        if (entry.stage, entry.output) == (stage, output) and entry.items
    ]
    return sum(seconds for seconds, _ in runs) / sum(items for _, items in runs) if runs else None


def _iter_entries(path: Path) -> Iterator[StageEntry]:
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            yield StageEntry.model_validate_json(line)
        except ValidationError:  # an empty line, or the incomplete last line of a killed run
            continue
