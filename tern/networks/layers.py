"""Parts that several networks share: dropout of features, position codes, box features, pooling.

Shapes: b items, n rows (regions or tokens), r regions, d features, w width. A mask is (b, n) bool, True for a real row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_WEIGHT = 1e-6  # added to every score, so that regions without scores have equal weights


def masked_mean(x: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
    """Average the real rows, weighted by their scores.

    Args:
        x: (b, n, d).
        mask: (b, n) bool.
        scores: (b, n), at least 0. Rows have equal weights if it is None or all of its values are 0.

    Returns:
        (b, d).
    """
    weights = mask.to(x.dtype)
    if scores is not None:
        weights = weights * (scores.to(x.dtype) + MIN_WEIGHT)
    return (x * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=MIN_WEIGHT)


class FeatureDropout(nn.Module):
    """Zero features of an item, the same ones in all of its rows.

    Pooling would average out noise that differs from row to row. This noise remains, and needs n times fewer random
    draws.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Apply the dropout in training mode: (b, n, w) -> (b, n, w)."""
        return x * F.dropout(x.new_ones(len(x), 1, x.shape[-1]), self.rate) if self.training and self.rate else x


def sinusoidal_positions(n: int, size: int, device: torch.device) -> Tensor:
    """Compute the position codes of "Attention is all you need", section 3.5: sines and cosines.

    Args:
        n: Number of positions.
        size: Numbers per position; even.
        device: Device of the result.

    Returns:
        (n, size) float32, -1 to 1.
    """
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-torch.log(torch.tensor(10000.0)).item() / size))
    angles = torch.arange(n, device=device)[:, None] * rates  # (n, size/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def box_features(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Compute the box features of TERN, section 3.1.

    They are x1/w, y1/h, x2/w, y2/h and the fraction of the image that the box covers.

    Args:
        boxes: (b, r, 4) x1 y1 x2 y2 in pixels.
        sizes: (b, 2) width and height of the images in pixels.

    Returns:
        (b, r, 5).
    """
    x1, y1, x2, y2 = (boxes / sizes.repeat(1, 2)[:, None, :].clamp(min=1)).unbind(-1)
    return torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)], dim=-1)


def pool_rows(x: Tensor, mask: Tensor, method: str) -> Tensor:
    """Pool the rows of each item.

    Args:
        x: (b, n, w).
        mask: (b, n) bool.
        method: `mean` or `max` of the real rows, or `cls` for the first row.

    Returns:
        (b, w).
    """
    if method == "cls":
        return x[:, 0]
    if method == "max":
        return x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
    return masked_mean(x, mask)
