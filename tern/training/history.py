"""The history of a training: one record per epoch, what the callback of an epoch receives, and `history.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from data.io import atomic_write
from data.text import read_lines
from tern.evaluation.results import RetrievalMetrics

HISTORY = "history.csv"
RESTORE_HINT = "Restore the file, or delete the folder of the model and train again."


class Epoch(BaseModel):
    """One finished epoch: a row of `history.csv`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    """Number of the epoch, from 1."""
    loss: float
    """Mean training loss of its batches."""
    lr: float
    """Learning rate of its last step."""
    validation: RetrievalMetrics
    """Metrics of the EMA model on `val`."""

    def flat(self) -> dict[str, float]:
        """Return the epoch as a row of `history.csv`, by column."""
        return {"epoch": self.epoch, "loss": self.loss, "lr": self.lr, **self.validation.flat()}

    @classmethod
    def from_flat(cls, row: Mapping[str, float]) -> Epoch:
        """Build the epoch from what `flat` returns."""
        return cls(epoch=int(row["epoch"]), loss=row["loss"], lr=row["lr"], validation=RetrievalMetrics.from_flat(row))


class EpochProgress(BaseModel):
    """What `on_epoch` receives after each epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: Epoch
    """The epoch that has ended."""
    num_epochs: int
    """Epochs of the whole training."""
    num_items: int
    """Images and captions that the epoch trained on."""
    seconds: float
    """Duration of the epoch, with its validation."""
    seconds_left: float
    """Estimated time for the remaining steps, in seconds."""
    val_images: int
    """Images of `val`, of which the metrics are."""
    val_captions: int
    """Captions of `val`."""
    chance_rsum: float
    """Level of chance of the rsum on `val`."""


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """Write the history as CSV, one row per epoch, with an atomic write."""
    rows = [epoch.flat() for epoch in history]
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_history(path: Path) -> list[Epoch]:
    """Read the history that `write_history` wrote.

    Raises:
        ValueError: The file is not UTF-8 or has no epochs, or a line lacks a column or has something else than numbers.
    """
    names, *lines = read_lines(path)
    epochs = []
    for number, line in enumerate(lines, 2):
        try:
            values = zip(names.split(","), map(float, line.split(",")), strict=True)
            epochs.append(Epoch.from_flat(dict(values)))
        except (KeyError, ValueError, OverflowError) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
            raise ValueError(f"{path}, line {number}: {reason}. {RESTORE_HINT}") from error
    if not epochs:
        raise ValueError(f"{path} has no epochs. {RESTORE_HINT}")
    return epochs
