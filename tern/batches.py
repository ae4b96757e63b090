"""Rows of two stores into padded batches. Padding is made here and nowhere else.

The order is a function of seed and epoch, and what is dropped of seed, epoch and step: a resumed run
needs no state to see the same batches.

Shapes: b images, n captions, r regions, l wordpieces, d features, k rows of all items one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.store import Store
from tern.counts import count_similar_regions


@dataclass(frozen=True)
class BatchIds:
    """What one batch holds, by id. `owners[j]` is the place in `images` of the image of `captions[j]`."""

    images: list[str]
    captions: list[str]
    image_index: list[int]


@dataclass(frozen=True)
class ImageBatch:
    """Padded regions: features (b, r, d), boxes (b, r, 4) px, sizes (b, 2) px, mask, scores and counts (b, r).

    Float32, the mask bool. Counts (tern/counts.py) are given where regions were left out; else the model counts.
    """

    features: Tensor
    boxes: Tensor
    sizes: Tensor
    mask: Tensor
    scores: Tensor
    counts: Tensor | None = None


@dataclass(frozen=True)
class CaptionBatch:
    """Padded wordpieces: features (n, l, d) float32, mask (n, l) bool."""

    features: Tensor
    mask: Tensor


def plan_batches(
    captions_of: Mapping[str, Sequence[str]], images_per_batch: int, captions_per_image: int, seed: int, epoch: int
) -> list[BatchIds]:
    """Batches of one epoch: every image once, with some of its captions.

    Args:
        captions_of: image id -> caption ids; images without captions are left out
        images: images a batch at most; batches differ by one image at most, so none is a small rest
        captions: captions an image; one that has fewer gives all it has, none twice
        seed, epoch: the order follows from these alone; captions take turns from epoch to epoch

    Raises:
        ValueError: fewer than two images have captions: there is nothing to tell apart
    """
    names = [name for name, own in captions_of.items() if own]
    if len(names) < 2:
        raise ValueError(f"{len(names)} images have captions; training needs 2 or more")
    start = np.random.default_rng([seed, 0]).integers(0, 1 << 30, len(names))
    order = np.random.default_rng([seed, 1, epoch]).permutation(len(names))
    plans = []
    for part in np.array_split(order, max(1, -(-len(names) // images_per_batch))):
        picked = [
            rotate_captions(captions_of[names[i]], int(start[i]) + epoch * captions_per_image, captions_per_image)
            for i in part
        ]
        owners = [place for place, own in enumerate(picked) for _ in own]
        plans.append(BatchIds([names[i] for i in part], [name for own in picked for name in own], owners))
    return plans


def rotate_captions(own: Sequence[str], first: int, count: int) -> list[str]:
    """`count` of `own` from place `first` on, round and round, none twice."""
    return [own[(first + step) % len(own)] for step in range(min(count, len(own)))]


@dataclass(frozen=True)
class TrainingBatch:
    """What the model sees of one plan: images, and captions in groups of like length, each padded to its own longest.

    Caption j of the plan (or of the part of it that was read) is row `order[j]` of the groups one after another.
    """

    images: ImageBatch
    captions: tuple[CaptionBatch, ...]
    order: Tensor  # (n,) int64


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


def rank_slices(plan: BatchIds, rank: int, world: int) -> tuple[slice, slice]:
    """Which images of a plan, and which of its captions, are those of process `rank` of `world`: a run of each."""
    first, last = (len(plan.images) * k // world for k in (rank, rank + 1))
    return slice(first, last), slice(*(int(place) for place in np.searchsorted(plan.image_index, (first, last))))


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


def make_keep_mask(lengths: np.ndarray, drop: float = 0.0, draw: np.random.Generator | None = None) -> np.ndarray:
    """(b, longest) bool: which rows of items of `lengths` (b,) stay when a fraction `drop` goes, as `kept` has it."""
    real = np.arange(int(lengths.max(initial=0)))[None] < lengths[:, None]
    real[real] = sample_kept_rows(lengths, drop, draw)
    return real


def select_and_pad(rows: np.ndarray, stay: np.ndarray) -> tuple[Tensor, Tensor]:
    """rows (b, longest, ...) and which of them stay (b, longest or more) -> as `pad`"""
    stay = stay[:, : rows.shape[1]]
    return pad_rows(rows[stay], stay.sum(axis=1))


def pad_images(
    features: np.ndarray, boxes: np.ndarray, sizes: np.ndarray, scores: np.ndarray, lengths: np.ndarray
) -> ImageBatch:
    """features (k, d), boxes (k, 4) px, sizes (b, 2) px, scores (k,), lengths (b,) rows, adding up to k -> a batch"""
    padded, mask = pad_rows(features, lengths)
    sizes = torch.from_numpy(np.asarray(sizes, np.float32))
    return ImageBatch(padded, pad_rows(boxes, lengths)[0], sizes, mask, pad_rows(scores, lengths)[0])


def pad_captions(features: np.ndarray, lengths: np.ndarray) -> CaptionBatch:
    """features (k, d), lengths (n,) rows, adding up to k -> a batch"""
    return CaptionBatch(*pad_rows(features, lengths))


def pad_rows(rows: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor]:
    """Rows one after another into a rectangle.

    Args:
        rows: (k, ...); lengths: (b,) rows of each item, adding up to k

    Returns: (b, longest, ...), float32 or for whole numbers int64, with zeros behind each item, and the mask
        (b, longest) bool. An item without rows gets one real row of zeros, so that attention has something to look at.
    """
    place = np.arange(max(1, int(lengths.max(initial=1))))[None]  # (1, longest)
    filled = place < lengths[:, None]  # (b, longest)
    out = np.zeros((*filled.shape, *rows.shape[1:]), np.int64 if rows.dtype.kind in "iu" else np.float32)
    out[filled] = rows
    return torch.from_numpy(out), torch.from_numpy(filled | (place == 0))


def sample_kept_rows(lengths: np.ndarray, drop: float, draw: np.random.Generator | None) -> np.ndarray:
    """(k,) bool: which rows stay when a fraction `drop` goes; the first row of an item always does."""
    if drop <= 0 or draw is None:
        return np.ones(int(lengths.sum()), bool)
    stays = draw.random(int(lengths.sum())) >= drop
    # row 0 is the [CLS] of a caption and the best region of an image; nothing becomes empty either
    stays[np.cumsum(lengths)[lengths > 0] - lengths[lengths > 0]] = True
    return stays


def map_tensors(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Images, Captions or a Step with every tensor of it changed."""
    if part is None:
        return None
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, tuple):
        return tuple(map_tensors(one, change) for one in part)
    return type(part)(*(map_tensors(getattr(part, field.name), change) for field in fields(part)))
