"""The history of a training as a picture, and as scalars for TensorBoard if that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.io import atomic_write
from tern.training.history import Epoch

CURVES = "curves.png"
TENSORBOARD_FOLDER = "tensorboard"


def plot_curves(path: Path, history: Sequence[Epoch]) -> None:
    """Draw training loss and validation recall over epochs as a PNG, with an atomic write."""
    # lazy: the import takes a second. pyplot is not used because it keeps every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in history]
    left.plot(epochs, [epoch.loss for epoch in history], color="#444444", marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    recalls = {
        "text to image, R@1": [epoch.validation.t2i.r1 for epoch in history],
        "image to text, R@1": [epoch.validation.i2t.r1 for epoch in history],
    }
    for label, values in recalls.items():
        right.plot(epochs, values, marker=".", label=label)
    best = max(history, key=lambda epoch: epoch.validation.rsum)
    right.axvline(best.epoch, color="#bbbbbb", linestyle=":", label=f"best rsum {best.validation.rsum:.1f}")
    right.set(xlabel="epoch", ylabel="validation (%)", ylim=(0, 100))
    right.legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


class TensorBoardLogger:
    """Writes scalars for TensorBoard to `folder/tensorboard`.

    Scalars that a resumed training writes again are replaced.

    Args:
        folder: Folder of the training.
        batch: Number of the first batch that has not been written.

    Raises:
        ImportError: The package `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, batch: int) -> None:
        if find_spec("tensorboard") is None:
            raise ImportError(
                "The package tensorboard is missing. Run `pip install tensorboard`, or set train.tensorboard=false."
            )
        from torch.utils.tensorboard import SummaryWriter  # lazy: optional

        self._writer: Any = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=batch)

    def log_epoch(self, epoch: Epoch, losses: Sequence[float], batch: int) -> None:
        """Write an epoch.

        Args:
            epoch: The epoch.
            losses: Loss of each of its batches.
            batch: Number of its last batch, counted over all epochs.
        """
        for number, loss in enumerate(losses, batch - len(losses) + 1):
            self._writer.add_scalar("loss/batch", loss, number)
        for name, value in epoch.flat().items():
            self._writer.add_scalar("loss/epoch" if name == "loss" else f"validation/{name}", value, batch)
        self._writer.flush()

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self._writer.close()
