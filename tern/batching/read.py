"""Read rows of two stores into padded batches. Used by training and by embedding.

Seed, epoch and number of the batch determine which rows are left out, so a resumed run needs no state to read the same
batches.

Shapes: b images, n captions, r regions, l tokens, d features.
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
    """Reads training batches from two stores."""

    regions: Store
    """Region store."""
    tokens: Store
    """Token store."""
    field: str = "features"
    """Column of the token store: `features`, or `token_ids` for a text encoder that is trained too."""
    region_drop: float = 0.0
    """Fraction of the regions of a batch to leave out."""
    token_drop: float = 0.0
    """Fraction of the tokens of a batch to leave out."""
    groups: int = 1
    """Number of groups by length into which the captions of a batch are split."""
    pinned: bool = False
    """Whether to read into page-locked memory, from which a GPU copies asynchronously."""
    feature_mean: Tensor | None = None
    """(d,) mean for a model with region counts: similar regions are counted before some are left out."""

    def read(self, plan: BatchIds, draw: np.random.Generator, share: tuple[int, int] = (0, 1)) -> TrainingBatch:
        """Read a batch, or the share of one process.

        Args:
            plan: Ids of the batch.
            draw: Random generator; it decides which rows are left out, independently of `share`.
            share: Rank of the process and number of processes.
        """
        images, captions = rank_slices(plan, *share)
        keep_mask = make_keep_mask(self.regions.lengths(plan.images), self.region_drop, draw)[images]
        feature_mean = self.feature_mean if self.region_drop else None
        image_batch = read_images(self.regions, plan.images[images], keep_mask, feature_mean)
        keep_mask = make_keep_mask(self.tokens.lengths(plan.captions), self.token_drop, draw)[captions]
        by_length = np.argsort(keep_mask.sum(axis=1), kind="stable")
        groups = [group for group in np.array_split(by_length, self.groups) if len(group)]
        names = plan.captions[captions]
        caption_batches = [
            read_captions(self.tokens, [names[j] for j in group], keep_mask[group], self.field) for group in groups
        ]
        batch = TrainingBatch(image_batch, tuple(caption_batches), torch.from_numpy(np.argsort(by_length)))
        return map_tensors(batch, Tensor.pin_memory) if self.pinned else batch


def read_images(
    store: Store, ids: Sequence[str], keep_mask: np.ndarray | None = None, feature_mean: Tensor | None = None
) -> ImageBatch:
    """Read the regions of images as one batch.

    Args:
        store: Region store.
        ids: b image ids.
        keep_mask: (b, longest or more) bool from `make_keep_mask`, True for a region that stays; None keeps all.
        feature_mean: (d,) mean with which similar regions are counted, including those that do not stay; None does not
            count them here.
    """
    features, lengths = store.read_padded("features", ids)
    boxes, _ = store.read_padded("boxes", ids)
    keep_mask = make_keep_mask(lengths) if keep_mask is None else keep_mask
    scores, _ = store.read_padded("scores", ids)
    padded, mask = select_and_pad(features, keep_mask)
    counts = None
    if feature_mean is not None and features.shape[1]:
        all_features, is_real = select_and_pad(features, make_keep_mask(lengths))
        all_scores = torch.from_numpy(scores.astype(np.float32))
        all_counts = count_similar_regions(all_features, is_real, all_scores, feature_mean)
        counts = select_and_pad(all_counts.numpy(), keep_mask)[0]
    sizes = torch.from_numpy(np.asarray(store.read("size", ids), "f4"))
    return ImageBatch(
        padded, select_and_pad(boxes, keep_mask)[0], sizes, mask, select_and_pad(scores, keep_mask)[0], counts
    )


def read_captions(
    store: Store, ids: Sequence[str], keep_mask: np.ndarray | None = None, field: str = "features"
) -> CaptionBatch:
    """Read the tokens of captions as one batch.

    Args:
        store: Token store.
        ids: n caption ids.
        keep_mask: (n, longest or more) bool, True for a token that stays; None keeps all.
        field: `features` for (n, l, d) float32, or `token_ids` for (n, l) int64.
    """
    rows, lengths = store.read_padded(field, ids)
    return CaptionBatch(*select_and_pad(rows, make_keep_mask(lengths) if keep_mask is None else keep_mask))
