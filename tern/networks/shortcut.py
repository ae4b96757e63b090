"""The direct road: pooled features through one linear map a side, beside the road that reasons.

A sentence encoder's mean is a good vector as it is, and a few hundred photographs are enough to learn a
linear map to it, not enough to learn a transformer: the first is what retrieval on little data rests on.

Shapes: b items, n rows, d features as extracted, e embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.networks.layers import masked_mean


class ImageShortcut(nn.Module):
    """First region, mean by score, and maximum, each number with mean 0 and spread 1 over the training images, mapped.

    A detector is asked for 36 boxes whether there are so many things or not: by its scores the last hardly count. The
    maximum shows what one small region alone has, of which a mean keeps little.

    `middle` and `spread` (3d,) are no parameters: `set_frame` takes them from the training set.
    """

    POOLINGS = ("first", "scored", "max")  # of `tern.baselines.pooled`

    def __init__(self, dim: int, out: int, dropout: float) -> None:
        super().__init__()
        wide = len(self.POOLINGS) * dim
        self.drop, self.map = nn.Dropout(dropout), nn.Linear(wide, out)
        self.register_buffer("mean", torch.zeros(wide))
        self.register_buffer("std", torch.ones(wide))
        nn.init.normal_(self.map.weight, std=0.01)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
        """x (b, n, d), mask (b, n), scores (b, n) of the detector, else all alike -> (b, e)"""
        most = x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
        x = torch.cat([x[:, 0], masked_mean(x, mask, scores), most], dim=-1)  # (b, 3d)
        return self.map(self.drop((x - self.mean) / self.std))


class CaptionShortcut(nn.Module):
    """The mean wordpiece at unit length, less the mean of the training captions `middle` (d,), mapped.

    The map is an isometry at the start: distances are the text encoder's own until images move them.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, out)
        self.register_buffer("mean", torch.zeros(dim))
        nn.init.orthogonal_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (b, n, d), mask (b, n) -> (b, e)"""
        x = F.normalize(masked_mean(x, mask).float(), dim=-1, eps=1e-8) - self.mean
        return self.map(F.normalize(x, dim=-1, eps=1e-8))
