"""History of `tern`."""

from __future__ import annotations

import csv
from pathlib import Path

from data.io import atomic_write

HISTORY = "history.csv"


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """The curve as CSV, a row an epoch, whole at every moment."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
