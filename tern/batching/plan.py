"""Plan of `tern`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BatchIds:
    """What one batch holds, by id. `owners[j]` is the place in `images` of the image of `captions[j]`."""

    images: list[str]
    captions: list[str]
    image_index: list[int]


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


def rank_slices(plan: BatchIds, rank: int, world: int) -> tuple[slice, slice]:
    """Which images of a plan, and which of its captions, are those of process `rank` of `world`: a run of each."""
    first, last = (len(plan.images) * k // world for k in (rank, rank + 1))
    return slice(first, last), slice(*(int(place) for place in np.searchsorted(plan.image_index, (first, last))))
