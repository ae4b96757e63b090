"""Embed stored or new items with a trained model.

Both use the same padding and the same forward pass, so a typed caption and the same caption in a store have the same
vector.

Shapes: b images, n captions, r regions, l tokens, d features, e embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from data.store import Store
from tern.batching.pad import pad_captions, pad_images
from tern.batching.read import read_captions, read_images
from tern.networks.inputs import CaptionBatch, ImageBatch, map_tensors


def embed_images(
    model: nn.Module, store: Store, ids: Sequence[str], batch_size: int = 256
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Embed stored images, in the order requested.

    Args:
        model: Model from `load_model`.
        store: Region store.
        ids: Image ids.
        batch_size: Maximum number of images per forward pass.

    Returns:
        Iterator of ids and their vectors (b, e) float32 of unit length.
    """
    return _embed(ids, batch_size, lambda part: forward_images(model, read_images(store, part)))


def embed_captions(
    model: nn.Module, store: Store, ids: Sequence[str], batch_size: int = 256
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Embed stored captions as `embed_images` embeds images.

    Args:
        store: Token store.
        ids: Caption ids. The other arguments are those of `embed_images`.
    """
    field = caption_field(model)
    return _embed(ids, batch_size, lambda part: forward_captions(model, read_captions(store, part, field=field)))


def _embed(
    ids: Sequence[str], batch_size: int, embed_batch: Callable[[list[str]], np.ndarray]
) -> Iterator[tuple[list[str], np.ndarray]]:
    for start in range(0, len(ids), batch_size):
        part = list(ids[start : start + batch_size])
        yield part, embed_batch(part)


def caption_field(model: nn.Module) -> str:
    """Return the column of the token store that a model reads.

    It is `features`, or `token_ids` for a model with a text encoder.
    """
    field: str = getattr(model, "token_field", "features")
    return field


def embed_new_captions(model: Any, captions: Sequence[np.ndarray]) -> np.ndarray:
    """Embed captions that are not stored, for example typed ones.

    Args:
        model: Model from `load_model`.
        captions: Per caption its (l, d) token features, [CLS] first; or its (l,) token ids, as `caption_field`
            requires.

    Returns:
        (n, e) float32 of unit length.

    Raises:
        ValueError: There are no captions, or features have another size than in training.
    """
    lengths = np.array([len(rows) for rows in captions], np.int64)
    if caption_field(model) == "token_ids":
        return forward_captions(model, pad_captions(np.concatenate(captions), lengths))
    check_dim("token", captions, model.token_dim)
    return forward_captions(model, pad_captions(to_stored_precision(captions), lengths))


def embed_new_images(
    model: Any, images: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]]
) -> np.ndarray:
    """Embed images that are not stored.

    Args:
        model: Model from `load_model`.
        images: Per image its (r, d) region features, (r, 4) boxes x1 y1 x2 y2 in pixels, (width, height) in pixels, and
            (r,) detector scores.

    Returns:
        (b, e) float32 of unit length.

    Raises:
        ValueError: Features have another size than in training.
    """
    features, boxes, sizes, scores = zip(*images, strict=True)
    check_dim("region", features, model.region_dim)
    lengths = np.array([len(rows) for rows in features], np.int64)
    rest = np.concatenate(boxes), np.array(sizes), np.concatenate(scores)
    return forward_images(model, pad_images(to_stored_precision(features), *rest, lengths))


def to_stored_precision(items: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate the rows of items (n, d) and round them to the half precision of stores."""
    return np.concatenate(items).astype(np.float16)


def check_dim(kind: str, items: Sequence[np.ndarray], dim: int) -> None:
    """Check the features passed to a model.

    Args:
        kind: What the features are, for the message: region or token.
        items: One array (n, dim) per item.
        dim: Numbers per feature vector that the model was trained on.

    Raises:
        ValueError: There are no items, or an array has another shape.
    """
    if not items:
        raise ValueError(f"There are no {kind} features. Pass one array of shape (n, {dim}) per item.")
    for rows in items:
        if rows.ndim != 2 or rows.shape[1] != dim:
            raise ValueError(
                f"{kind} features have shape {rows.shape}, but the model was trained on (n, {dim}). Extract them with "
                "the extractor of the model's store."
            )


@torch.inference_mode()
def forward_images(model: Any, batch: ImageBatch) -> np.ndarray:
    """Embed one padded batch of images: (b, e) float32."""
    device = next(model.parameters()).device
    vectors: np.ndarray = model.embed_images(map_tensors(batch, lambda part: part.to(device))).cpu().numpy()
    return vectors


@torch.inference_mode()
def forward_captions(model: Any, batch: CaptionBatch) -> np.ndarray:
    """Embed one padded batch of captions: (n, e) float32."""
    device = next(model.parameters()).device
    vectors: np.ndarray = model.embed_captions(batch.features.to(device), batch.mask.to(device)).cpu().numpy()
    return vectors
