"""Plan the batches of an epoch: which images and captions each has. The plan depends only on the seed and the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BatchIds:
    """The ids of one batch."""

    images: list[str]
    captions: list[str]
    image_index: list[int]
    """Position in `images` of the image of each caption."""


def plan_batches(
    captions_by_image_id: Mapping[str, Sequence[str]],
    images_per_batch: int,
    captions_per_image: int,
    seed: int,
    epoch: int,
) -> list[BatchIds]:
    """Divide the images of one epoch into batches: each image once, with some of its captions.

    Args:
        captions_by_image_id: Caption ids by image id; images without captions are left out.
        images_per_batch: Maximum number of images per batch. The sizes of two batches differ by one image at most.
        captions_per_image: Maximum number of captions per image; no caption occurs twice.
        seed: Random seed.
        epoch: Number of the epoch, from 0. The captions of an image rotate from epoch to epoch.

    Returns:
        The batches in order; `seed` and `epoch` determine them.

    Raises:
        ValueError: Fewer than two images have captions.
    """
    names = [name for name, captions in captions_by_image_id.items() if captions]
    if len(names) < 2:
        raise ValueError(
            f"{len(names)} images have captions; training requires 2 or more. Add captions to the dataset."
        )
    start = np.random.default_rng([seed, 0]).integers(0, 1 << 30, len(names))
    order = np.random.default_rng([seed, 1, epoch]).permutation(len(names))
    batches = []
    for part in np.array_split(order, max(1, -(-len(names) // images_per_batch))):
        selected = [
            rotate_captions(
                captions_by_image_id[names[i]], int(start[i]) + epoch * captions_per_image, captions_per_image
            )
            for i in part
        ]
        image_index = [position for position, captions in enumerate(selected) for _ in captions]
        caption_ids = [name for captions in selected for name in captions]
        batches.append(BatchIds([names[i] for i in part], caption_ids, image_index))
    return batches


def rotate_captions(captions: Sequence[str], first: int, count: int) -> list[str]:
    """Select some captions of an image, cyclically; none twice.

    Args:
        captions: Caption ids of the image; at least one.
        first: Position of the first caption, from 0; taken modulo the number of captions.
        count: Maximum number of captions to select.
    """
    return [captions[(first + offset) % len(captions)] for offset in range(min(count, len(captions)))]


def rank_slices(batch: BatchIds, rank: int, world: int) -> tuple[slice, slice]:
    """Return the slices of images and captions of a batch that one process reads.

    Args:
        batch: The batch of all processes.
        rank: Number of the process, 0 to `world` - 1.
        world: Number of processes.

    Returns:
        The slice of `batch.images` and that of `batch.captions`; each image is with its captions.
    """
    first, last = (len(batch.images) * k // world for k in (rank, rank + 1))
    return slice(first, last), slice(*(int(index) for index in np.searchsorted(batch.image_index, (first, last))))
