"""Padding: rows of several items, one after another, into rectangular tensors with a mask.

Shapes: b images, n captions, k rows of all items, d features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tern.networks.inputs import CaptionBatch, ImageBatch


def make_keep_mask(lengths: np.ndarray, drop: float = 0.0, draw: np.random.Generator | None = None) -> np.ndarray:
    """Select the rows that stay when a fraction of them is left out.

    Args:
        lengths: (b,) rows per item.
        drop: Fraction to leave out, as in `sample_kept_rows`.
        draw: Random generator; None keeps all rows.

    Returns:
        (b, longest) bool, True for a row that stays.
    """
    keep_mask: np.ndarray = np.arange(int(lengths.max(initial=0)))[None] < lengths[:, None]
    keep_mask[keep_mask] = sample_kept_rows(lengths, drop, draw)
    return keep_mask


def select_and_pad(rows: np.ndarray, keep_mask: np.ndarray) -> tuple[Tensor, Tensor]:
    """Select rows and pad them again.

    Args:
        rows: (b, longest, ...).
        keep_mask: (b, longest or more) bool.

    Returns:
        The padded rows and their mask, as `pad_rows` returns them.
    """
    keep_mask = keep_mask[:, : rows.shape[1]]
    return pad_rows(rows[keep_mask], keep_mask.sum(axis=1))


def pad_images(
    features: np.ndarray, boxes: np.ndarray, sizes: np.ndarray, scores: np.ndarray, lengths: np.ndarray
) -> ImageBatch:
    """Pad the regions of several images.

    Args:
        features: (k, d).
        boxes: (k, 4) x1 y1 x2 y2 in pixels.
        sizes: (b, 2) width and height in pixels.
        scores: (k,) detector scores.
        lengths: (b,) regions per image; they sum to k.
    """
    padded, mask = pad_rows(features, lengths)
    size_tensor = torch.from_numpy(np.asarray(sizes, np.float32))
    return ImageBatch(padded, pad_rows(boxes, lengths)[0], size_tensor, mask, pad_rows(scores, lengths)[0])


def pad_captions(features: np.ndarray, lengths: np.ndarray) -> CaptionBatch:
    """Pad the tokens of captions: features (k, d), lengths (n,) tokens per caption, which sum to k."""
    return CaptionBatch(*pad_rows(features, lengths))


def pad_rows(rows: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor]:
    """Arrange rows in a rectangle.

    Args:
        rows: (k, ...).
        lengths: (b,) rows per item; they sum to k.

    Returns:
        (b, longest, ...) float32, or int64 for integers, with zeros after each item; and the mask (b, longest) bool. An
        item without rows gets one real row of zeros, because attention needs at least one.
    """
    position = np.arange(max(1, int(lengths.max(initial=1))))[None]  # (1, longest)
    is_filled = position < lengths[:, None]  # (b, longest)
    out = np.zeros((*is_filled.shape, *rows.shape[1:]), np.int64 if rows.dtype.kind in "iu" else np.float32)
    out[is_filled] = rows
    return torch.from_numpy(out), torch.from_numpy(is_filled | (position == 0))


def sample_kept_rows(lengths: np.ndarray, drop: float, draw: np.random.Generator | None) -> np.ndarray:
    """Sample the rows that stay when a fraction is left out; the first row of an item always stays.

    Args:
        lengths: (b,) rows per item; they sum to k.
        drop: Fraction to leave out, 0 to 1.
        draw: Random generator; None keeps all rows.

    Returns:
        (k,) bool, True for a row that stays.
    """
    if drop <= 0 or draw is None:
        return np.ones(int(lengths.sum()), bool)
    keep_mask: np.ndarray = draw.random(int(lengths.sum())) >= drop
    # Row 0 is the [CLS] token of a caption or the first region of an image; keeping it also leaves no item empty.
    keep_mask[np.cumsum(lengths)[lengths > 0] - lengths[lengths > 0]] = True
    return keep_mask
