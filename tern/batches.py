"""Rows of two stores into padded batches. Padding is made here and nowhere else.

The order is a function of seed and epoch, and what is dropped of seed, epoch and step: a resumed run
needs no state to see the same batches.

Shapes: b images, n captions, r regions, l wordpieces, d features, k rows of all items one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.store import Store


@dataclass(frozen=True)
class Plan:
    """What one batch holds, by id. `owners[j]` is the place in `images` of the image of `captions[j]`."""

    images: list[str]
    captions: list[str]
    owners: list[int]


@dataclass(frozen=True)
class Images:
    """Padded regions: features (b, r, d), boxes (b, r, 4) px, sizes (b, 2) px, mask (b, r), float32 and bool."""

    features: Tensor
    boxes: Tensor
    sizes: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Captions:
    """Padded wordpieces: features (n, l, d) float32, mask (n, l) bool."""

    features: Tensor
    mask: Tensor


def plan_epoch(
    captions_of: Mapping[str, Sequence[str]], images: int, captions: int, seed: int, epoch: int
) -> list[Plan]:
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
    for part in np.array_split(order, max(1, -(-len(names) // images))):
        picked = [take_turns(captions_of[names[i]], int(start[i]) + epoch * captions, captions) for i in part]
        owners = [place for place, own in enumerate(picked) for _ in own]
        plans.append(Plan([names[i] for i in part], [name for own in picked for name in own], owners))
    return plans


def take_turns(own: Sequence[str], first: int, count: int) -> list[str]:
    """`count` of `own` from place `first` on, round and round, none twice."""
    return [own[(first + step) % len(own)] for step in range(min(count, len(own)))]


def read_images(store: Store, ids: Sequence[str], drop: float = 0.0, draw: np.random.Generator | None = None) -> Images:
    """The regions of some images as one batch.

    Args:
        store: a region store
        ids: b image ids
        drop: fraction of the regions to leave out, by `draw`; the first of an image stays
    """
    lengths = store.lengths(ids)
    keep = kept(lengths, drop, draw)
    features, boxes = store.read("features", ids), store.read("boxes", ids)
    return pad_images(features[keep], boxes[keep], store.read("size", ids), counts(lengths, keep))


def read_captions(
    store: Store, ids: Sequence[str], drop: float = 0.0, draw: np.random.Generator | None = None
) -> Captions:
    """The wordpieces of some captions as one batch; `drop` and `draw` as for `read_images`."""
    lengths = store.lengths(ids)
    keep = kept(lengths, drop, draw)
    return pad_captions(store.read("features", ids)[keep], counts(lengths, keep))


def pad_images(features: np.ndarray, boxes: np.ndarray, sizes: np.ndarray, lengths: np.ndarray) -> Images:
    """features (k, d), boxes (k, 4) px, sizes (b, 2) px, lengths (b,) rows, adding up to k -> a batch"""
    padded, mask = pad(features, lengths)
    return Images(padded, pad(boxes, lengths)[0], torch.from_numpy(np.asarray(sizes, np.float32)), mask)


def pad_captions(features: np.ndarray, lengths: np.ndarray) -> Captions:
    """features (k, d), lengths (n,) rows, adding up to k -> a batch"""
    return Captions(*pad(features, lengths))


def pad(rows: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor]:
    """Rows one after another into a rectangle.

    Args:
        rows: (k, d); lengths: (b,) rows of each item, adding up to k

    Returns: (b, longest, d) float32 with zeros behind each item, and the mask (b, longest) bool. An
        item without rows gets one real row of zeros, so that attention has something to look at.
    """
    place = np.arange(max(1, int(lengths.max(initial=1))))[None]  # (1, longest)
    filled = place < lengths[:, None]  # (b, longest)
    out = np.zeros((*filled.shape, rows.shape[1]), np.float32)
    out[filled] = rows
    return torch.from_numpy(out), torch.from_numpy(filled | (place == 0))


def kept(lengths: np.ndarray, drop: float, draw: np.random.Generator | None) -> np.ndarray:
    """(k,) bool: which rows stay when a fraction `drop` goes; the first row of an item always does."""
    if drop <= 0 or draw is None:
        return np.ones(int(lengths.sum()), bool)
    stays = draw.random(int(lengths.sum())) >= drop
    # row 0 is the [CLS] of a caption and the best region of an image; nothing becomes empty either
    stays[np.cumsum(lengths)[lengths > 0] - lengths[lengths > 0]] = True
    return stays


def counts(lengths: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """(b,) rows left of each item: lengths (b,), keep (k,)"""
    running = np.concatenate([[0], np.cumsum(keep)])  # (k + 1,)
    ends = np.cumsum(lengths)
    return running[ends] - running[ends - lengths]
