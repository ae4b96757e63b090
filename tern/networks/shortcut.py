"""The shortcut: one linear map of pooled features per modality, added to the transformer branch.

The mean of a sentence encoder's tokens is a good vector by itself. A few hundred images suffice to learn a linear map
to it, but not to learn a transformer. With little data, retrieval relies on the shortcut.

Shapes: b items, n rows, d features, e embedding. A mask is (b, n) bool, True for a real row.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.networks.layers import masked_mean


class ImageShortcut(nn.Module):
    """Map the first region, the mean by score and the maximum of an image to the embedding.

    A detector returns its maximum number of boxes even if the image contains fewer things; weighted by score, the last
    boxes hardly count. The maximum keeps the features of a single small region, which hardly change a mean.

    The buffers `mean` and `std` (3d,) are not parameters: `tern.training.normalization.fit_normalization` computes them
    from the training set.
    """

    # Methods of `tern.batching.pooled.pool_features`.
    POOLINGS: tuple[Literal["first", "scored", "max"], ...] = ("first", "scored", "max")
    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, out: int, dropout: float) -> None:
        super().__init__()
        width = len(self.POOLINGS) * dim
        self.drop, self.map = nn.Dropout(dropout), nn.Linear(width, out)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        nn.init.normal_(self.map.weight, std=0.01)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
        """Pool and map the regions.

        Args:
            x: (b, n, d) region features.
            mask: (b, n) bool.
            scores: (b, n) detector scores; None weights all regions equally.

        Returns:
            (b, e).
        """
        maximum = x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)  # (b, d)
        x = torch.cat([x[:, 0], masked_mean(x, mask, scores), maximum], dim=-1)  # (b, 3d)
        return self.map(self.drop((x - self.mean) / self.std))


class CaptionShortcut(nn.Module):
    """Map the mean token, at unit length and minus the mean of the training captions, to the embedding.

    The map starts as an isometry: initially, distances are those of the text encoder. The buffer `mean` (d,) is
    computed from the training set, like those of `ImageShortcut`.
    """

    mean: Tensor

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, out)
        self.register_buffer("mean", torch.zeros(dim))
        nn.init.orthogonal_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool and map the tokens: x (b, n, d), mask (b, n) -> (b, e)."""
        x = F.normalize(masked_mean(x, mask).float(), dim=-1, eps=1e-8) - self.mean  # (b, d)
        return self.map(F.normalize(x, dim=-1, eps=1e-8))
