"""Row vectors: short vectors of regions and tokens, and the alignment scores that their best pairs give.

The region-word alignment of TERAN (Messina et al. 2021, section 3.3), with the maximum in both directions as in FILIP
(Yao et al. 2021) and a learned weight per row. `data.alignment` computes the same scores from stored row vectors.

Shapes: b images, n captions, r regions, t tokens, m rows of an item (regions or tokens), d features as extracted, w
width of the layers, k numbers per row vector. A mask is (b, m) bool, True for a real row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.networks.layers import FeatureDropout

BLOCK_NUMBERS = {"cpu": 1 << 21, "cuda": 1 << 27}  # cosines in memory at once; on a CPU they stay in the cache
HIDDEN = -2.0  # is added to the cosines of a padded row, so that it is never the best one


class RowBatch(NamedTuple):
    """Row vectors of a batch of items, padded."""

    vectors: Tensor
    """(b, m, k) of unit length."""
    weights: Tensor
    """(b, m): share of each row; padded rows have 0. Those of an item add up to 1, except in `tern.networks.teran`."""
    mask: Tensor
    """(b, m) bool, True for a real row."""


class Encoding(NamedTuple):
    """What a network computes of a batch of items."""

    vectors: Tensor
    """(b, e) of unit length."""
    rows: RowBatch | None = None
    """Row vectors; None for a network without them."""


def encode_images(network: Any, batch: Any) -> Encoding:
    """Compute the vectors of images, and row vectors if the network has them."""
    encode = getattr(network, "encode_images", None)
    encoding: Encoding = encode(batch) if encode is not None else Encoding(network.embed_images(batch))
    return encoding


def encode_captions(network: Any, features: Tensor, mask: Tensor) -> Encoding:
    """Compute the vectors of captions, and row vectors if the network has them."""
    encode = getattr(network, "encode_captions", None)
    encoding: Encoding = (
        encode(features, mask) if encode is not None else Encoding(network.embed_captions(features, mask))
    )
    return encoding


class AlignmentHead(nn.Module):
    """Row vectors of one modality: a linear map of the features, plus one of the output of the layers.

    The second map starts at zero, so that training starts from the features alone, as the shortcut does. The buffers
    `mean` and `std` (d,) are not parameters: `tern.training.normalization.fit_normalization` computes them from the
    rows of the training set.

    Args:
        dim: Features per row, d.
        width: Width of the layers, w.
        out: Numbers per row vector, k.
        dropout: Dropout rate of the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, width: int, out: int, dropout: float) -> None:
        super().__init__()
        self.drop = FeatureDropout(dropout)
        self.feature_map, self.layer_map = nn.Linear(dim, out), nn.Linear(width, out)
        self.feature_weight, self.layer_weight = nn.Linear(dim, 1), nn.Linear(width, 1)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        nn.init.normal_(self.feature_map.weight, std=dim**-0.5)
        for zero in (self.layer_map, self.feature_weight, self.layer_weight):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

    def forward(self, features: Tensor, hidden: Tensor, mask: Tensor) -> RowBatch:
        """Compute row vectors.

        Args:
            features: (b, m, d) features as extracted.
            hidden: (b, m, w) output of the layers.
            mask: (b, m) bool; at least one real row per item.
        """
        x = (features - self.mean) / self.std  # (b, m, d)
        vectors = self.feature_map(self.drop(x)) + self.layer_map(hidden)  # (b, m, k)
        weights = (self.feature_weight(x) + self.layer_weight(hidden))[..., 0].float()  # (b, m)
        weights = weights.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        return RowBatch(F.normalize(vectors.float(), dim=-1, eps=1e-8), weights, mask)


class _BestCosines(torch.autograd.Function):
    """For each pair of an image and a caption: the best region of each token, and the best token of each region.

    The cosines of all rows of a batch would fill the memory and its bandwidth, so they are computed for a few images at
    a time, and once more in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, regions: Tensor, region_mask: Tensor, tokens: Tensor, token_mask: Tensor) -> Any:
        (b, r, k), (n, t, _) = regions.shape, tokens.shape
        # Two more numbers per row hide padded rows without another pass over the cosines.
        left = torch.cat([regions, _hide(region_mask, regions), regions.new_ones(b, r, 1)], dim=-1)  # (b, r, k + 2)
        right = torch.cat([tokens, tokens.new_ones(n, t, 1), _hide(token_mask, tokens)], dim=-1)
        right = right.view(n * t, k + 2)
        best_of_tokens, best_of_regions = regions.new_empty(b, n, t), regions.new_empty(b, r, n)
        for block in _blocks(b, r * n * t, regions.device.type):
            cosines = (left[block].flatten(0, 1) @ right.T).view(-1, r, n, t)
            torch.amax(cosines, 1, out=best_of_tokens[block])
            torch.amax(cosines, 3, out=best_of_regions[block])
        ctx.save_for_backward(left, right, best_of_tokens, best_of_regions)
        return best_of_tokens, best_of_regions

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        left, right, best_of_tokens, best_of_regions = ctx.saved_tensors
        (b, r, width), (n, t) = left.shape, best_of_tokens.shape[1:]
        left_gradient, right_gradient = left.new_empty(b, r, width - 2), right.new_zeros(n * t, width - 2)
        for block in _blocks(b, r * n * t, left.device.type):
            cosines = (left[block].flatten(0, 1) @ right.T).view(-1, r, n, t)
            gradient = (cosines == best_of_tokens[block, None]) * gradients[0][block, None]
            gradient += (cosines == best_of_regions[block][..., None]) * gradients[1][block][..., None]
            gradient = gradient.view(-1, n * t)
            left_gradient[block] = (gradient @ right[:, :-2]).view(-1, r, width - 2)
            right_gradient.addmm_(gradient.T, left[block][..., :-2].flatten(0, 1))
        return left_gradient, None, right_gradient.view(n, t, -1), None


def _hide(mask: Tensor, like: Tensor) -> Tensor:
    return (~mask).to(like.dtype)[..., None] * HIDDEN


def _blocks(count: int, numbers_per_item: int, device: str) -> list[slice]:
    step = max(1, BLOCK_NUMBERS.get(device, 1 << 21) // max(1, numbers_per_item))
    return [slice(start, start + step) for start in range(0, count, step)]


def alignment_scores(images: RowBatch, captions: RowBatch) -> Tensor:
    """Score all pairs of images and captions by their rows.

    Args:
        images: Rows of b images.
        captions: Rows of n captions.

    Returns:
        (b, n) from -1 to 1: the mean of two weighted means of cosines, that of the tokens, each with its best region,
        and that of the regions, each with its best token.
    """
    best_of_tokens, best_of_regions = _BestCosines.apply(images.vectors, images.mask, captions.vectors, captions.mask)
    from_tokens = torch.einsum("bnt,nt->bn", best_of_tokens, captions.weights)
    from_regions = torch.einsum("brn,br->bn", best_of_regions, images.weights)
    return (from_tokens + from_regions) / 2
