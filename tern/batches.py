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
from tern.counts import counted


@dataclass(frozen=True)
class Plan:
    """What one batch holds, by id. `owners[j]` is the place in `images` of the image of `captions[j]`."""

    images: list[str]
    captions: list[str]
    owners: list[int]


@dataclass(frozen=True)
class Images:
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


@dataclass(frozen=True)
class Step:
    """What the model sees of one plan: images, and captions in groups of like length, each padded to its own longest.

    Caption j of the plan (or of the part of it that was read) is row `order[j]` of the groups one after another.
    """

    images: Images
    captions: tuple[Captions, ...]
    order: Tensor  # (n,) int64


@dataclass(frozen=True)
class Sources:
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
    centre: Tensor | None = None
    """(d,), of a model that counts regions alike: it is told how many there were before some were left out"""

    def step(self, plan: Plan, draw: np.random.Generator, part: tuple[int, int] = (0, 1)) -> Step:
        """The step of a plan, or the share of process `part[0]` of `part[1]`; what is dropped depends on neither."""
        images, captions = share(plan, *part)
        stay = remain(self.regions.lengths(plan.images), self.region_drop, draw)[images]
        seen = read_images(self.regions, plan.images[images], stay, self.centre if self.region_drop else None)
        stay = remain(self.tokens.lengths(plan.captions), self.token_drop, draw)[captions]
        places = np.argsort(stay.sum(axis=1), kind="stable")
        groups = [group for group in np.array_split(places, self.groups) if len(group)]
        names = plan.captions[captions]
        told = [read_captions(self.tokens, [names[j] for j in g], stay[g], self.field) for g in groups]
        step = Step(seen, tuple(told), torch.from_numpy(np.argsort(places)))
        return moved(step, Tensor.pin_memory) if self.pinned else step


def share(plan: Plan, rank: int, world: int) -> tuple[slice, slice]:
    """Which images of a plan, and which of its captions, are those of process `rank` of `world`: a run of each."""
    first, last = (len(plan.images) * k // world for k in (rank, rank + 1))
    return slice(first, last), slice(*(int(place) for place in np.searchsorted(plan.owners, (first, last))))


def read_images(
    store: Store, ids: Sequence[str], stay: np.ndarray | None = None, centre: Tensor | None = None
) -> Images:
    """The regions of some images as one batch.

    Args:
        store: a region store
        ids: b image ids
        stay: (b, longest or more) bool from `remain`: the rows that stay; all of them if it is not given
        centre: (d,), to count each region's like among all rows, those that do not stay too
    """
    features, lengths = store.read_padded("features", ids)
    boxes, _ = store.read_padded("boxes", ids)
    stay = remain(lengths) if stay is None else stay
    scores, _ = store.read_padded("scores", ids)
    padded, mask = tighten(features, stay)
    counts = None
    if centre is not None and features.shape[1]:
        whole, real = tighten(features, remain(lengths))
        every = counted(whole, real, torch.from_numpy(scores.astype(np.float32)), centre)
        counts = tighten(every.numpy(), stay)[0]
    sizes = torch.from_numpy(np.asarray(store.read("size", ids), "f4"))
    return Images(padded, tighten(boxes, stay)[0], sizes, mask, tighten(scores, stay)[0], counts)


def read_captions(
    store: Store, ids: Sequence[str], stay: np.ndarray | None = None, field: str = "features"
) -> Captions:
    """The wordpieces of some captions as one batch; `stay` as for `read_images`. With `token_ids`: (n, l) int64."""
    rows, lengths = store.read_padded(field, ids)
    return Captions(*tighten(rows, remain(lengths) if stay is None else stay))


def remain(lengths: np.ndarray, drop: float = 0.0, draw: np.random.Generator | None = None) -> np.ndarray:
    """(b, longest) bool: which rows of items of `lengths` (b,) stay when a fraction `drop` goes, as `kept` has it."""
    real = np.arange(int(lengths.max(initial=0)))[None] < lengths[:, None]
    real[real] = kept(lengths, drop, draw)
    return real


def tighten(rows: np.ndarray, stay: np.ndarray) -> tuple[Tensor, Tensor]:
    """rows (b, longest, ...) and which of them stay (b, longest or more) -> as `pad`"""
    stay = stay[:, : rows.shape[1]]
    return pad(rows[stay], stay.sum(axis=1))


def pad_images(
    features: np.ndarray, boxes: np.ndarray, sizes: np.ndarray, scores: np.ndarray, lengths: np.ndarray
) -> Images:
    """features (k, d), boxes (k, 4) px, sizes (b, 2) px, scores (k,), lengths (b,) rows, adding up to k -> a batch"""
    padded, mask = pad(features, lengths)
    sizes = torch.from_numpy(np.asarray(sizes, np.float32))
    return Images(padded, pad(boxes, lengths)[0], sizes, mask, pad(scores, lengths)[0])


def pad_captions(features: np.ndarray, lengths: np.ndarray) -> Captions:
    """features (k, d), lengths (n,) rows, adding up to k -> a batch"""
    return Captions(*pad(features, lengths))


def pad(rows: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor]:
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


def kept(lengths: np.ndarray, drop: float, draw: np.random.Generator | None) -> np.ndarray:
    """(k,) bool: which rows stay when a fraction `drop` goes; the first row of an item always does."""
    if drop <= 0 or draw is None:
        return np.ones(int(lengths.sum()), bool)
    stays = draw.random(int(lengths.sum())) >= drop
    # row 0 is the [CLS] of a caption and the best region of an image; nothing becomes empty either
    stays[np.cumsum(lengths)[lengths > 0] - lengths[lengths > 0]] = True
    return stays


def moved(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Images, Captions or a Step with every tensor of it changed."""
    if part is None:
        return None
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, tuple):
        return tuple(moved(one, change) for one in part)
    return type(part)(*(moved(getattr(part, field.name), change) for field in fields(part)))
