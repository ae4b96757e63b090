"""Pad of `tern`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tern.networks.inputs import CaptionBatch, ImageBatch


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
