"""Normalization of `tern`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from data.store import Store
from tern.batching.pooled import pool_features

SAMPLE = 8192  # items that a mean and a spread are taken from; more changes neither by much
CHUNK = 256  # items in memory while that is done


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
