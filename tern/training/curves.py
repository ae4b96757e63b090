"""The history of a run to look at: a table, a picture, and TensorBoard where that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.io import atomic_write

CURVES = "curves.png"
BOARD = "tensorboard"


def plot_curves(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Loss and validation recalls by epoch as a PNG, whole at every moment."""
    from matplotlib.figure import Figure  # a second of import, and no pyplot: it would keep every figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["loss"] for row in history], color="#444444", marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    for way, name in (("t2i", "text to image"), ("i2t", "image to text")):
        right.plot(epochs, [row[f"{way}_r1"] for row in history], marker=".", label=f"{name}, R@1")
    best = max(history, key=lambda row: row["rsum"])
    right.axvline(best["epoch"], color="#bbbbbb", linestyle=":", label=f"best rsum {best['rsum']:.1f}")
    right.set(xlabel="epoch", ylabel="validation (%)", ylim=(0, 100))
    right.legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


class TensorBoardLogger:
    """Scalars for TensorBoard, in `folder/tensorboard`; what a resumed run does again replaces what it had written."""

    def __init__(self, folder: Path, batch: int) -> None:
        """`batch` is the first that has not been written. Raises ImportError if the package is not installed."""
        if find_spec("tensorboard") is None:
            raise ImportError("tensorboard is not installed: `pip install tensorboard`, or set train.tensorboard=false")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / BOARD), purge_step=batch)

    def log_epoch(self, row: dict[str, float], losses: Sequence[float], batch: int) -> None:
        """A row of the history, and the loss of each batch of its epoch; the last was number `batch` of all."""
        for number, loss in enumerate(losses, batch - len(losses) + 1):
            self._writer.add_scalar("loss/batch", loss, number)
        for name, value in row.items():
            self._writer.add_scalar("loss/epoch" if name == "loss" else f"validation/{name}", value, batch)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
