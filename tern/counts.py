"""How many things of a picture look alike: "four penguins" is a sum, and attention and pooling only average.

Shapes: b images, r regions, d features as extracted, w width of the stacks, e embedding, m = `MOST`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST = 6  # regions alike that are still told apart
LIKE, STEEP = 0.6, 15.0  # cosine at which a region counts half as one of the kind, and how fast that changes


class Counts(nn.Module):
    """Each region's count into the stacks, and those of the whole picture beside them.

    `centre` (d,) is no parameter: `tern.direct.set_frame` takes it from the training set. Without it all regions of a
    network that ends in a ReLU would look alike.

    Args:
        dim: d; width: w
        out: e, for a model with a direct road; else 0
    """

    def __init__(self, dim: int, width: int, out: int) -> None:
        super().__init__()
        self.region = nn.Linear(MOST, width)
        self.image = nn.Linear(MOST, out) if out else None
        self.register_buffer("centre", torch.zeros(dim))
        if self.image is not None:
            nn.init.normal_(self.image.weight, std=0.05)
            nn.init.zeros_(self.image.bias)

    def forward(self, counts: Tensor, mask: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor | float]:
        """counts (b, r), mask (b, r), scores (b, r) or all alike -> what each region is given (b, r, w), and (b, e)"""
        places = torch.arange(1, MOST + 1, device=counts.device)
        # (b, r, m): 2.3 is 0.7 of two and 0.3 of three
        share = (1 - (counts.clamp(max=MOST)[..., None] - places).abs()).clamp(min=0)
        if self.image is None:
            return self.region(share), 0.0
        one = weights_of(mask, scores) / counts.clamp(min=1e-3)  # four alike are one four
        return self.region(share), self.image((share * one[..., None]).sum(dim=1))


def counted(x: Tensor, mask: Tensor, scores: Tensor | None, centre: Tensor) -> Tensor:
    """How many regions look like each, itself among them, each by its detector's score.

    Args:
        x: (b, r, d) region features; mask: (b, r); scores: (b, r), or all alike; centre: (d,)

    Returns: (b, r) float32
    """
    z = F.normalize(x.float() - centre, dim=-1, eps=1e-6)
    like = torch.sigmoid(STEEP * (z @ z.transpose(1, 2) - LIKE))  # (b, r, r)
    return (like * weights_of(mask, scores)[:, None]).sum(dim=-1)


def weights_of(mask: Tensor, scores: Tensor | None) -> Tensor:
    """(b, r) float32: scores of the real regions; 1 for each of an image without any"""
    if scores is None:
        return mask.float()
    return torch.where(scores.amax(dim=1, keepdim=True) > 0, scores.float(), 1.0) * mask
