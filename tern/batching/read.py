"""Rows of two stores into padded batches. Padding is made here and nowhere else.

The order is a function of seed and epoch, and what is dropped of seed, epoch and step: a resumed run
needs no state to see the same batches.

Shapes: b images, n captions, r regions, l wordpieces, d features, k rows of all items one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.store import Store
from tern.batching.pad import make_keep_mask, select_and_pad
from tern.batching.plan import BatchIds, rank_slices
from tern.networks.inputs import CaptionBatch, ImageBatch, TrainingBatch, map_tensors
from tern.networks.region_counts import count_similar_regions


@dataclass(frozen=True)
class BatchReader:
    """Where steps are read from, and what becomes of the rows."""

    regions: Store
    tokens: Store
    field: str = "features"
    """of the token store: `features`, or `token_ids` for a text encoder that is trained too"""
    region_drop: float = 0.0
    """fraction of the regions of a step to leave out"""
    token_drop: float = 0.0
    """fraction of the wordpieces of a step to leave out"""
    groups: int = 1
    """by length, that the captions of a step are split into"""
    pinned: bool = False
    """page-locked memory, for a GPU to fetch beside its work"""
    feature_mean: Tensor | None = None
    """(d,), of a model that counts regions alike: it is told how many there were before some were left out"""

    def read(self, plan: BatchIds, draw: np.random.Generator, part: tuple[int, int] = (0, 1)) -> TrainingBatch:
        """The step of a plan, or the share of process `part[0]` of `part[1]`; what is dropped depends on neither."""
        images, captions = rank_slices(plan, *part)
        stay = make_keep_mask(self.regions.lengths(plan.images), self.region_drop, draw)[images]
        seen = read_images(self.regions, plan.images[images], stay, self.feature_mean if self.region_drop else None)
        stay = make_keep_mask(self.tokens.lengths(plan.captions), self.token_drop, draw)[captions]
        places = np.argsort(stay.sum(axis=1), kind="stable")
        groups = [group for group in np.array_split(places, self.groups) if len(group)]
        names = plan.captions[captions]
        told = [read_captions(self.tokens, [names[j] for j in g], stay[g], self.field) for g in groups]
        step = TrainingBatch(seen, tuple(told), torch.from_numpy(np.argsort(places)))
        return map_tensors(step, Tensor.pin_memory) if self.pinned else step


def read_images(
    store: Store, ids: Sequence[str], keep_mask: np.ndarray | None = None, feature_mean: Tensor | None = None
) -> ImageBatch:
    """The regions of some images as one batch.

    Args:
        store: a region store
        ids: b image ids
        stay: (b, longest or more) bool from `remain`: the rows that stay; all of them if it is not given
        feature_mean: (d,), to count each region's like among all rows, those that do not stay too
    """
    features, lengths = store.read_padded("features", ids)
    boxes, _ = store.read_padded("boxes", ids)
    keep_mask = make_keep_mask(lengths) if keep_mask is None else keep_mask
    scores, _ = store.read_padded("scores", ids)
    padded, mask = select_and_pad(features, keep_mask)
    counts = None
    if feature_mean is not None and features.shape[1]:
        whole, real = select_and_pad(features, make_keep_mask(lengths))
        every = count_similar_regions(whole, real, torch.from_numpy(scores.astype(np.float32)), feature_mean)
        counts = select_and_pad(every.numpy(), keep_mask)[0]
    sizes = torch.from_numpy(np.asarray(store.read("size", ids), "f4"))
    return ImageBatch(
        padded, select_and_pad(boxes, keep_mask)[0], sizes, mask, select_and_pad(scores, keep_mask)[0], counts
    )


def read_captions(
    store: Store, ids: Sequence[str], stay: np.ndarray | None = None, field: str = "features"
) -> CaptionBatch:
    """The wordpieces of some captions as one batch; `stay` as for `read_images`. With `token_ids`: (n, l) int64."""
    rows, lengths = store.read_padded(field, ids)
    return CaptionBatch(*select_and_pad(rows, make_keep_mask(lengths) if stay is None else stay))
