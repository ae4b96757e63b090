"""Plots of the report: the history of a training, and figures as images in a page."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from tern.training import read_history

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = (  # column of the history, label, line style, color
    ("t2i_r1", "text to image R@1", "-", "#2a6fdb"),
    ("i2t_r1", "image to text R@1", "--", "#2a6fdb"),
    ("t2i_r10", "text to image R@10", "-", "#2a9d5c"),
    ("i2t_r10", "image to text R@10", "--", "#2a9d5c"),
)


def plot_history(path: Path) -> str:
    """Plot training loss and validation recall per epoch.

    Args:
        path: The `history.csv` of a model.

    Returns:
        Data URI of an SVG image.

    Raises:
        ValueError: The file is not a history; the message has the line.
    """
    from matplotlib.figure import Figure

    rows = [epoch.flat() for epoch in read_history(path)]
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    loss_axes, recall_axes = figure.subplots(1, 2)
    loss_axes.plot(epochs, [row["loss"] for row in rows], color="#e4572e")
    loss_axes.set(title="training loss", xlabel="epoch", yscale="log")
    for column, label, style, color in CURVES:
        recall_axes.plot(epochs, [row[column] for row in rows], style, color=color, label=label)
    recall_axes.set(title="validation recall, percent", xlabel="epoch", ylim=(0, 101))
    recall_axes.legend(frameon=False, fontsize=8, loc="lower right")
    for axes in (loss_axes, recall_axes):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return to_svg_uri(figure)


def to_svg_uri(figure: "Figure") -> str:
    """Encode a figure as the data URI of an SVG image, with equal bytes for equal figures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
