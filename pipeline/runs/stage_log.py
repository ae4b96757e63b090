"""Stage log of `pipeline`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGE_LOG = "stages.jsonl"


def read_stage_seconds(workspace: Path) -> dict[tuple[str, str], float]:
    """(stage, output) -> seconds of the longest run that gave that output, by the workspace's journal."""
    found: dict[tuple[str, str], float] = {}
    for entry in _entries(workspace):
        key = (entry["stage"], entry["output"])
        found[key] = max(entry["seconds"], found.get(key, 0.0))
    return found


def seconds_per_item(workspace: Path, stage: str, output: str) -> float | None:
    """What an item of an output took, over all runs that made some, by the workspace's journal; None if none did."""
    runs = [e for e in _entries(workspace) if (e["stage"], e["output"]) == (stage, output) and e.get("items")]
    return sum(run["seconds"] for run in runs) / sum(run["items"] for run in runs) if runs else None


def _entries(workspace: Path) -> Iterator[dict[str, Any]]:
    path = workspace / STAGE_LOG
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when a run was killed, or an empty one
            continue
