"""Region counts: how many regions of an image look like each region.

"Four penguins" needs a sum over regions, which attention and pooling do not compute: they average.

Shapes: b images, r regions, d features, w width of the layers, e embedding, m = `MAX_COUNT`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_COUNT = 6  # larger counts are treated as this one
SIMILARITY_THRESHOLD = 0.6  # cosine at which a region counts as half a similar region
SIGMOID_SLOPE = 15.0  # slope of the count over the cosine


class RegionCounts(nn.Module):
    """Map the count of each region to the layers, and the counts of the image to the shortcut.

    The buffer `feature_mean` (d,) is not a parameter: `tern.training.normalization.fit_normalization` computes it from
    the training set. Without it, all features of a network that ends in a ReLU would look similar.

    Args:
        dim: Features per region, d.
        width: Width of the layers, w.
        out: Size of the embedding, e, for a model with a shortcut; else 0.
    """

    feature_mean: Tensor

    def __init__(self, dim: int, width: int, out: int) -> None:
        super().__init__()
        self.region = nn.Linear(MAX_COUNT, width)
        self.image = nn.Linear(MAX_COUNT, out) if out else None
        self.register_buffer("feature_mean", torch.zeros(dim))
        if self.image is not None:
            nn.init.normal_(self.image.weight, std=0.05)
            nn.init.zeros_(self.image.bias)

    def forward(self, counts: Tensor, mask: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor | float]:
        """Map counts to features.

        Args:
            counts: (b, r) float32, from `count_similar_regions`.
            mask: (b, r) bool.
            scores: (b, r) detector scores, or None for equal weights.

        Returns:
            (b, r, w) for the layers, and (b, e) for the shortcut, or 0.0 if there is none.
        """
        values = torch.arange(1, MAX_COUNT + 1, device=counts.device)
        # 2.3 is 0.7 of two and 0.3 of three
        share = (1 - (counts.clamp(max=MAX_COUNT)[..., None] - values).abs()).clamp(min=0)  # (b, r, m)
        if self.image is None:
            return self.region(share), 0.0
        weights = region_weights(mask, scores) / counts.clamp(min=1e-3)  # (b, r): four similar regions are one "four"
        return self.region(share), self.image((share * weights[..., None]).sum(dim=1))


def count_similar_regions(x: Tensor, mask: Tensor, scores: Tensor | None, feature_mean: Tensor) -> Tensor:
    """Count, for each region, the regions of its image that look like it, itself included.

    Args:
        x: (b, r, d) region features.
        mask: (b, r) bool.
        scores: (b, r) detector scores, with which regions are counted; None counts each as 1.
        feature_mean: (d,) mean that is subtracted before cosines are computed.

    Returns:
        (b, r) float32.
    """
    z = F.normalize(x.float() - feature_mean, dim=-1, eps=1e-6)
    similar = torch.sigmoid(SIGMOID_SLOPE * (z @ z.transpose(1, 2) - SIMILARITY_THRESHOLD))  # (b, r, r)
    return (similar * region_weights(mask, scores)[:, None]).sum(dim=-1)


def region_weights(mask: Tensor, scores: Tensor | None) -> Tensor:
    """Compute the weight of each region, (b, r) float32: its score, or 1 if all scores of its image are 0."""
    if scores is None:
        return mask.float()
    return torch.where(scores.amax(dim=1, keepdim=True) > 0, scores.float(), 1.0) * mask
