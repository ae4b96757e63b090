"""How many things of a picture look alike: "four penguins" is a sum, and attention and pooling only average.

Shapes: b images, r regions, d features as extracted, w width of the stacks, e embedding, m = `MOST`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_COUNT = 6  # regions alike that are still told apart
SIMILARITY_THRESHOLD, SIGMOID_SLOPE = (
    0.6,
    15.0,
)  # cosine at which a region counts half as one of the kind, and how fast that changes


class RegionCounts(nn.Module):
    """Each region's count into the stacks, and those of the whole picture beside them.

    `feature_mean` (d,) is no parameter: `tern.direct.set_frame` takes it from the training set. Without it all regions of a
    network that ends in a ReLU would look alike.

    Args:
        dim: d; width: w
        out: e, for a model with a direct road; else 0
    """

    def __init__(self, dim: int, width: int, out: int) -> None:
        super().__init__()
        self.region = nn.Linear(MAX_COUNT, width)
        self.image = nn.Linear(MAX_COUNT, out) if out else None
        self.register_buffer("feature_mean", torch.zeros(dim))
        if self.image is not None:
            nn.init.normal_(self.image.weight, std=0.05)
            nn.init.zeros_(self.image.bias)

    def forward(self, counts: Tensor, mask: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor | float]:
        """counts (b, r), mask (b, r), scores (b, r) or all alike -> what each region is given (b, r, w), and (b, e)"""
        places = torch.arange(1, MAX_COUNT + 1, device=counts.device)
        # (b, r, m): 2.3 is 0.7 of two and 0.3 of three
        share = (1 - (counts.clamp(max=MAX_COUNT)[..., None] - places).abs()).clamp(min=0)
        if self.image is None:
            return self.region(share), 0.0
        one = region_weights(mask, scores) / counts.clamp(min=1e-3)  # four alike are one four
        return self.region(share), self.image((share * one[..., None]).sum(dim=1))


def count_similar_regions(x: Tensor, mask: Tensor, scores: Tensor | None, feature_mean: Tensor) -> Tensor:
    """How many regions look like each, itself among them, each by its detector's score.

    Args:
        x: (b, r, d) region features; mask: (b, r); scores: (b, r), or all alike; feature_mean: (d,)

    Returns: (b, r) float32
    """
    z = F.normalize(x.float() - feature_mean, dim=-1, eps=1e-6)
    like = torch.sigmoid(SIGMOID_SLOPE * (z @ z.transpose(1, 2) - SIMILARITY_THRESHOLD))  # (b, r, r)
    return (like * region_weights(mask, scores)[:, None]).sum(dim=-1)


def region_weights(mask: Tensor, scores: Tensor | None) -> Tensor:
    """(b, r) float32: scores of the real regions; 1 for each of an image without any"""
    if scores is None:
        return mask.float()
    return torch.where(scores.amax(dim=1, keepdim=True) > 0, scores.float(), 1.0) * mask
