"""A trained model at work: stored rows, or fresh ones, into unit vectors.

Stored and fresh rows take the same padding and the same forward, so a typed sentence and the same
sentence in a store give the same vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from data.store import Store
from tern.batching.pad import pad_captions, pad_images
from tern.batching.read import read_captions, read_images
from tern.networks.inputs import CaptionBatch, ImageBatch, map_tensors


def embed_images(
    model: nn.Module, store: Store, ids: Sequence[str], batch: int = 256
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Vectors of stored images: yields (ids, (b, e) float32 of unit length), `batch` images at a time, in order."""
    for start in range(0, len(ids), batch):
        part = list(ids[start : start + batch])
        yield part, forward_images(model, read_images(store, part))


def embed_captions(
    model: nn.Module, store: Store, ids: Sequence[str], batch: int = 256
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Vectors of stored captions: yields (ids, (b, e) float32 of unit length), `batch` captions at a time, in order."""
    for start in range(0, len(ids), batch):
        part = list(ids[start : start + batch])
        yield part, forward_captions(model, read_captions(store, part, field=caption_field(model)))


def caption_field(model: nn.Module) -> str:
    """What of a caption a model reads: `features`, or `token_ids` where it has a text encoder of its own."""
    return getattr(model, "token_field", "features")


def embed_new_captions(model: nn.Module, captions: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors of fresh captions, for instance typed ones.

    Args:
        captions: for each its (l, d) wordpiece features, [CLS] first; or its (l,) token ids, if `field_of` says so

    Returns: (n, e) float32 of unit length
    """
    lengths = np.array([len(rows) for rows in captions], np.int64)
    if caption_field(model) == "token_ids":
        return forward_captions(model, pad_captions(np.concatenate(captions), lengths))
    check_dim("wordpiece", captions, model.token_dim)
    return forward_captions(model, pad_captions(to_stored_precision(captions), lengths))


def embed_new_images(
    model: nn.Module, images: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]]
) -> np.ndarray:
    """Vectors of fresh images.

    Args:
        images: for each its (r, d) region features, (r, 4) boxes x1 y1 x2 y2 in pixels, (width, height) in pixels,
            and (r,) scores of the boxes

    Returns: (b, e) float32 of unit length
    """
    features, boxes, sizes, scores = zip(*images, strict=True)
    check_dim("region", features, model.region_dim)
    lengths = np.array([len(rows) for rows in features], np.int64)
    rest = np.concatenate(boxes), np.array(sizes), np.concatenate(scores)
    return forward_images(model, pad_images(to_stored_precision(features), *rest, lengths))


def to_stored_precision(items: Sequence[np.ndarray]) -> np.ndarray:
    """Items of (n, d) rows one after another, rounded to the half precision that stores keep."""
    return np.concatenate(items).astype(np.float16)


def check_dim(what: str, items: Sequence[np.ndarray], dim: int) -> None:
    """ValueError unless there are items and each is (n, dim)."""
    if not items:
        raise ValueError(f"no {what} features were given; give one array of shape (n, {dim}) an item")
    for rows in items:
        if rows.ndim != 2 or rows.shape[1] != dim:
            raise ValueError(
                f"{what} features of shape {rows.shape}, but the model was trained on (n, {dim}); "
                "extract them with the extractor that the model's store names"
            )


@torch.inference_mode()
def forward_images(model: nn.Module, batch: ImageBatch) -> np.ndarray:
    """One padded batch -> (b, e) float32"""
    device = next(model.parameters()).device
    batch = map_tensors(batch, lambda part: part.to(device))
    return model.embed_images(batch.features, batch.boxes, batch.sizes, batch.mask, batch.scores).cpu().numpy()


@torch.inference_mode()
def forward_captions(model: nn.Module, batch: CaptionBatch) -> np.ndarray:
    """One padded batch -> (n, e) float32"""
    device = next(model.parameters()).device
    return model.embed_captions(batch.features.to(device), batch.mask.to(device)).cpu().numpy()
