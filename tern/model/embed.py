"""Embed stored or new items with a trained model.

A forward pass has a fixed number of items of one length, so the vector of an item depends neither on the other items
nor on their number, and a typed caption and the same caption in a store have the same vector, bit for bit.

Shapes: b images, n captions, r regions, l tokens, d features, e embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from data.alignment import Embeddings, concatenate_embeddings, encode_rows
from data.batches import group_by_length
from data.store import Store
from tern.batching.pad import pad_captions, pad_images
from tern.batching.read import read_captions, read_images
from tern.networks.alignment import Encoding, encode_captions, encode_images
from tern.networks.inputs import CaptionBatch, ImageBatch, map_tensors

CPU_BATCH, GPU_BATCH = 8, 256  # items; on a CPU, larger batches are hardly faster, and a query takes one batch
WINDOW = 4096  # items whose vectors are in memory at once


def embed_images(
    model: nn.Module, store: Store, ids: Sequence[str], batch_size: int | None = None
) -> Iterator[tuple[list[str], Embeddings]]:
    """Embed stored images, in the order requested.

    Args:
        model: Model from `load_model`.
        store: Region store.
        ids: Image ids.
        batch_size: Number of images per forward pass; None is `CPU_BATCH` or `GPU_BATCH`.

    Returns:
        Iterator of ids and what the model computes of them.
    """
    return _embed_windows(model, store, ids, batch_size, lambda part: forward_images(model, read_images(store, part)))


def embed_captions(
    model: nn.Module, store: Store, ids: Sequence[str], batch_size: int | None = None
) -> Iterator[tuple[list[str], Embeddings]]:
    """Embed stored captions as `embed_images` embeds images.

    Args:
        store: Token store.
        ids: Caption ids. The other arguments are those of `embed_images`.
    """
    field = caption_field(model)

    def embed_part(part: list[str]) -> Embeddings:
        return forward_captions(model, read_captions(store, part, field=field))

    return _embed_windows(model, store, ids, batch_size, embed_part)


def _embed_windows(
    model: nn.Module,
    store: Store,
    ids: Sequence[str],
    batch_size: int | None,
    embed_part: Callable[[list[str]], Embeddings],
) -> Iterator[tuple[list[str], Embeddings]]:
    for start in range(0, len(ids), WINDOW):
        part = list(ids[start : start + WINDOW])

        def embed_batch(positions: list[int], part: list[str] = part) -> Embeddings:
            return embed_part([part[i] for i in positions])

        yield part, _embed(model, store.lengths(part).tolist(), embed_batch, batch_size)


def _embed(
    model: nn.Module,
    lengths: Sequence[int],
    embed_batch: Callable[[list[int]], Embeddings],
    batch_size: int | None = None,
) -> Embeddings:
    """Embed items in batches of one length and of one size; a smaller batch is filled up with its last item.

    Args:
        model: Model from `load_model`.
        lengths: Rows of each item.
        embed_batch: Embeds the items at `batch_size` positions.
        batch_size: Number of items per forward pass; None is `CPU_BATCH` or `GPU_BATCH`.

    Returns:
        What the model computes of the items, in their order.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    size = batch_size or (CPU_BATCH if on_cpu else GPU_BATCH)
    batches = list(group_by_length(lengths, size))
    parts = [embed_batch(batch + batch[-1:] * (size - len(batch))).select(range(len(batch))) for batch in batches]
    return concatenate_embeddings(parts).select(np.argsort(np.concatenate(batches)))


def caption_field(model: nn.Module) -> str:
    """Return the column of the token store that a model reads.

    It is `features`, or `token_ids` for a model with a text encoder.
    """
    field: str = getattr(model, "token_field", "features")
    return field


def embed_new_captions(model: Any, captions: Sequence[np.ndarray]) -> Embeddings:
    """Embed captions that are not stored, for example typed ones.

    Args:
        model: Model from `load_model`.
        captions: Per caption its (l, d) token features, [CLS] first; or its (l,) token ids, as `caption_field`
            requires.

    Returns:
        What the model computes of the n captions.

    Raises:
        ValueError: There are no captions, or features have another size than in training.
    """
    is_ids = caption_field(model) == "token_ids"
    if not is_ids:
        check_dim("token", captions, model.token_dim)
    lengths = [len(rows) for rows in captions]

    def embed_batch(positions: list[int]) -> Embeddings:
        part = [captions[i] for i in positions]
        rows = np.concatenate(part) if is_ids else to_stored_precision(part)
        return forward_captions(model, pad_captions(rows, np.array([len(item) for item in part], np.int64)))

    return _embed(model, lengths, embed_batch)


def embed_new_images(
    model: Any, images: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]]
) -> Embeddings:
    """Embed images that are not stored.

    Args:
        model: Model from `load_model`.
        images: Per image its (r, d) region features, (r, 4) boxes x1 y1 x2 y2 in pixels, (width, height) in pixels, and
            (r,) detector scores.

    Returns:
        What the model computes of the b images.

    Raises:
        ValueError: Features have another size than in training.
    """
    check_dim("region", [features for features, *_ in images], model.region_dim)

    def embed_batch(positions: list[int]) -> Embeddings:
        features, boxes, sizes, scores = zip(*(images[i] for i in positions), strict=True)
        lengths = np.array([len(rows) for rows in features], np.int64)
        rest = np.concatenate(boxes), np.array(sizes), np.concatenate(scores)
        return forward_images(model, pad_images(to_stored_precision(features), *rest, lengths))

    return _embed(model, [len(features) for features, *_ in images], embed_batch)


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
def forward_images(model: Any, batch: ImageBatch) -> Embeddings:
    """Embed one padded batch of images."""
    device = next(model.parameters()).device
    return _to_embeddings(encode_images(model, map_tensors(batch, lambda part: part.to(device))))


@torch.inference_mode()
def forward_captions(model: Any, batch: CaptionBatch) -> Embeddings:
    """Embed one padded batch of captions."""
    device = next(model.parameters()).device
    return _to_embeddings(encode_captions(model, batch.features.to(device), batch.mask.to(device)))


def _to_embeddings(encoding: Encoding) -> Embeddings:
    vectors = encoding.vectors.cpu().numpy()
    if encoding.rows is None:
        return Embeddings(vectors)
    return Embeddings(vectors, encode_rows(*(part.cpu().numpy() for part in encoding.rows)))
