"""Inputs of `tern`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


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


@dataclass(frozen=True)
class TrainingBatch:
    """What the model sees of one plan: images, and captions in groups of like length, each padded to its own longest.

    Caption j of the plan (or of the part of it that was read) is row `order[j]` of the groups one after another.
    """

    images: ImageBatch
    captions: tuple[CaptionBatch, ...]
    order: Tensor  # (n,) int64


def map_tensors(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Images, Captions or a Step with every tensor of it changed."""
    if part is None:
        return None
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, tuple):
        return tuple(map_tensors(one, change) for one in part)
    return type(part)(*(map_tensors(getattr(part, field.name), change) for field in fields(part)))
