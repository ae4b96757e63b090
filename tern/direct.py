"""The direct road: pooled features through one linear map a side, beside the road that reasons.

A sentence encoder's mean is a good vector as it is, and a few hundred photographs are enough to learn a
linear map to it, not enough to learn a transformer: the first is what retrieval on little data rests on.

Shapes: b items, n rows, d features as extracted, e embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.store import Store
from tern.baselines import pool_features

SAMPLE = 8192  # items that a mean and a spread are taken from; more changes neither by much
NO_SCORE = 1e-6  # added to every score: of regions without any each counts the same
CHUNK = 256  # items in memory while that is done


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


def masked_mean(x: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
    """x (b, n, d), mask (b, n) -> (b, d): of the real rows, by their scores (b, n) unless all of those are 0"""
    weights = mask.to(x.dtype)
    if scores is not None:
        weights = weights * (scores.to(x.dtype) + NO_SCORE)
    return (x * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=NO_SCORE)


@torch.no_grad()
def fit_normalization(
    model: nn.Module, regions: Store, tokens: Store, images: Sequence[str], captions: Sequence[str]
) -> None:
    """Take the middle and spread of both direct roads, and the feature_mean that regions alike are counted around, from
    training items: the same on every process and every start.

    Args:
        model: one of `tern.model.build_model`; nothing happens to one without either
        images, captions: ids of the training split; of more than `SAMPLE` an even part is read
    """
    if getattr(model, "counts", None) is not None:
        model.counts.feature_mean.copy_(
            torch.from_numpy(mean_and_std(images, lambda ids: pool_features(regions, ids, "scored"))[0])
        )
    if getattr(model, "image_shortcut", None) is None:
        return
    views = model.image_shortcut.POOLINGS
    mean, std = mean_and_std(images, lambda ids: np.hstack([pool_features(regions, ids, how) for how in views]))
    # a number that hardly moves in training says nothing: the noise of one new image would be blown up
    std[std <= 1e-3 * std.mean()] = np.inf
    model.image_shortcut.mean.copy_(torch.from_numpy(mean))
    model.image_shortcut.std.copy_(torch.from_numpy(std))

    def unit(ids: Sequence[str]) -> np.ndarray:
        rows = pool_features(tokens, ids)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)

    model.caption_shortcut.mean.copy_(torch.from_numpy(mean_and_std(captions, unit)[0]))


def mean_and_std(ids: Sequence[str], rows_of: Callable[[Sequence[str]], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) of the rows (n, d) of some ids, read in parts."""
    ids = [ids[i] for i in np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids))).round().astype(int)]
    total, squares = 0.0, 0.0
    for start in range(0, len(ids), CHUNK):
        rows = rows_of(ids[start : start + CHUNK]).astype(np.float64)
        total, squares = total + rows.sum(axis=0), squares + (rows**2).sum(axis=0)
    mean = total / len(ids)
    return mean, np.sqrt(np.maximum(squares / len(ids) - mean**2, 0))
