"""Layers of `tern`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NO_SCORE = 1e-6  # added to every score: of regions without any each counts the same


def masked_mean(x: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
    """x (b, n, d), mask (b, n) -> (b, d): of the real rows, by their scores (b, n) unless all of those are 0"""
    weights = mask.to(x.dtype)
    if scores is not None:
        weights = weights * (scores.to(x.dtype) + NO_SCORE)
    return (x * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=NO_SCORE)


class FeatureDropout(nn.Module):
    """Zero whole features of an item, in all of its rows at once.

    Pooling averages noise that differs from row to row; this it cannot, and n times fewer draws are needed.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (b, n, w) -> (b, n, w)"""
        return x * F.dropout(x.new_ones(len(x), 1, x.shape[-1]), self.rate) if self.training and self.rate else x


def sinusoidal_positions(n: int, size: int, device: torch.device) -> Tensor:
    """The sine and cosine codes of "Attention is all you need", section 3.5: (n, size)."""
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-torch.log(torch.tensor(10000.0)).item() / size))
    angles = torch.arange(n, device=device)[:, None] * rates  # (n, size/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def box_features(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Where a region stands: boxes (b, r, 4) px, sizes (b, 2) px -> (b, r, 5).

    x1/w, y1/h, x2/w, y2/h and the fraction of the picture that the box covers (TERN, section 3.1).
    """
    x1, y1, x2, y2 = (boxes / sizes.repeat(1, 2)[:, None, :].clamp(min=1)).unbind(-1)
    return torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)], dim=-1)


def pool_rows(x: Tensor, mask: Tensor, how: str) -> Tensor:
    """x (b, n, w), mask (b, n) -> (b, w): the mean or the maximum of the real rows, or the first row."""
    if how == "cls":
        return x[:, 0]
    if how == "max":
        return x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
    return masked_mean(x, mask)
