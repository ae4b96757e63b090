"""Padded batches, the inputs of the networks.

Shapes: b images, n captions, r regions, l tokens, d features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class ImageBatch:
    """The regions of b images, padded to the largest number of regions.

    Attributes:
        features: (b, r, d) float32.
        boxes: (b, r, 4) float32: x1 y1 x2 y2 in pixels.
        sizes: (b, 2) float32: width and height of the images in pixels.
        mask: (b, r) bool, True for a real region; at least one per image.
        scores: (b, r) float32: detector scores, 0 to 1; None weights all regions equally.
        counts: (b, r) float32: number of similar regions. Passed if regions were left out; if None, the network counts
            them.
    """

    features: Tensor
    boxes: Tensor
    sizes: Tensor
    mask: Tensor
    scores: Tensor | None = None
    counts: Tensor | None = None


@dataclass(frozen=True)
class CaptionBatch:
    """The tokens of n captions, padded to the longest caption.

    Attributes:
        features: (n, l, d) float32; or (n, l) int64 token ids for a network with a text encoder.
        mask: (n, l) bool, True for a real token; at least one per caption.
    """

    features: Tensor
    mask: Tensor


@dataclass(frozen=True)
class TrainingBatch:
    """One batch of a training: images, and captions in groups of similar length.

    Each group is padded to its longest caption.
    """

    images: ImageBatch
    captions: tuple[CaptionBatch, ...]
    order: Tensor
    """(n,) int64: caption j of the batch is row `order[j]` of the concatenated groups."""


def map_tensors(part: T, change: Callable[[Tensor], Tensor]) -> T:
    """Apply a function to every tensor of a batch.

    Args:
        part: A batch, a tuple of batches, a tensor, or None.
        change: Function of one tensor.

    Returns:
        A copy of `part` with the changed tensors.
    """
    if part is None:
        return part
    if isinstance(part, Tensor):
        return change(part)  # type: ignore[return-value]  # a tensor for a tensor
    if isinstance(part, tuple):
        return tuple(map_tensors(item, change) for item in part)  # type: ignore[return-value]  # a tuple for a tuple
    values = (map_tensors(getattr(part, field.name), change) for field in fields(part))  # type: ignore[arg-type]  # a batch
    return type(part)(*values)
