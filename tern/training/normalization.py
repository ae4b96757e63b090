"""Statistics of the training set that a network needs: mean and std of the shortcut, mean feature of region counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from data.store import Store
from tern.batching.pooled import pool_features
from tern.networks.alignment import AlignmentHead
from tern.networks.region_counts import RegionCounts
from tern.networks.shortcut import CaptionShortcut, ImageShortcut

SAMPLE = 8192  # maximum number of items for a mean and a std; more items hardly change them
CHUNK = 256  # items in memory at once


@torch.no_grad()
def fit_normalization(
    model: nn.Module, regions: Store, tokens: Store, image_ids: Sequence[str], caption_ids: Sequence[str]
) -> None:
    """Compute the statistics of a network from training items; equal in every process and in every run.

    Args:
        model: Network from `build_model`; one without shortcut, region counts and row vectors stays unchanged.
        regions: Region store.
        tokens: Token store.
        image_ids: Images of the training split; of more than `SAMPLE`, an evenly spaced selection is read.
        caption_ids: Captions of the training split, likewise.
    """
    for name, store, ids in (("image_rows", regions, image_ids), ("caption_rows", tokens, caption_ids)):
        head = getattr(model, name, None)
        if isinstance(head, AlignmentHead):
            _set_mean_and_std(head, *mean_and_std(ids, _make_row_reader(store)))
    counts = getattr(model, "counts", None)
    if isinstance(counts, RegionCounts):
        mean, _ = mean_and_std(image_ids, lambda ids: pool_features(regions, ids, "scored"))
        counts.feature_mean.copy_(torch.from_numpy(mean))
    images, captions = getattr(model, "image_shortcut", None), getattr(model, "caption_shortcut", None)
    if not isinstance(images, ImageShortcut) or not isinstance(captions, CaptionShortcut):
        return
    mean, std = mean_and_std(
        image_ids, lambda ids: np.hstack([pool_features(regions, ids, pooling) for pooling in images.POOLINGS])
    )
    _set_mean_and_std(images, mean, std)

    def pool_captions(ids: Sequence[str]) -> np.ndarray:
        rows = pool_features(tokens, ids)
        unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
        return unit

    captions.mean.copy_(torch.from_numpy(mean_and_std(caption_ids, pool_captions)[0]))


def _set_mean_and_std(part: ImageShortcut | AlignmentHead, mean: np.ndarray, std: np.ndarray) -> None:
    # A feature that is almost constant in training carries no information: dividing by its std would amplify noise.
    std[std <= 1e-3 * std.mean()] = np.inf
    part.mean.copy_(torch.from_numpy(mean))
    part.std.copy_(torch.from_numpy(std))


def _make_row_reader(store: Store) -> Callable[[Sequence[str]], np.ndarray]:
    return lambda ids: store.read("features", ids)


def mean_and_std(ids: Sequence[str], read: Callable[[Sequence[str]], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and standard deviation of the rows of items, in chunks.

    Args:
        ids: Item ids.
        read: Function from item ids to their rows (n, d), any number of rows per item.

    Returns:
        Mean and standard deviation, each (d,) float64.
    """
    ids = [ids[i] for i in np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids))).round().astype(int)]
    total, squares, count = np.float64(0), np.float64(0), 0
    for start in range(0, len(ids), CHUNK):
        rows = read(ids[start : start + CHUNK]).astype(np.float64)
        total, squares, count = total + rows.sum(axis=0), squares + (rows**2).sum(axis=0), count + len(rows)
    mean = np.asarray(total / count)
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))
