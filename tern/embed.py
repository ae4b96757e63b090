"""A trained model at work: stored rows, or fresh ones, into unit vectors.

Stored and fresh rows take the same padding and the same forward, so a typed sentence and the same
sentence in a store give the same vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data.files import read_json
from data.records import Dataset
from data.store import Store
from tern.batches import Captions, Images, pad_captions, pad_images, read_captions, read_images
from tern.metrics import retrieval_metrics
from tern.model import ModelConfig, Tern, build_model

WEIGHTS = "best.safetensors"
CARD = "model.json"


def load(folder: Path, device: str = "cpu") -> Tern:
    """The trained model of a folder that `tern.train.train` has finished, in eval mode.

    Raises:
        FileNotFoundError: training has not finished there
        ValueError: the weights do not fit the model that the card describes
    """
    card = Path(folder) / CARD
    if not card.is_file():
        raise FileNotFoundError(f"{card} is missing: training has not finished in {folder}; run it (again)")
    facts = read_json(card)
    model = build_model(ModelConfig(**facts["model"]), facts["region_dim"], facts["token_dim"])
    try:
        model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(
            f"{Path(folder) / WEIGHTS} does not fit {card}: {error}; delete the folder, train again"
        ) from error
    return model.to(device).eval()


def embed_images(
    model: Tern, store: Store, ids: Sequence[str], batch: int = 256
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Vectors of stored images: yields (ids, (b, e) float32 of unit length), `batch` images at a time, in order."""
    for start in range(0, len(ids), batch):
        part = list(ids[start : start + batch])
        yield part, forward_images(model, read_images(store, part))


def embed_captions(
    model: Tern, store: Store, ids: Sequence[str], batch: int = 256
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Vectors of stored captions: yields (ids, (b, e) float32 of unit length), `batch` captions at a time, in order."""
    for start in range(0, len(ids), batch):
        part = list(ids[start : start + batch])
        yield part, forward_captions(model, read_captions(store, part))


def validate(model: Tern, regions: Store, tokens: Store, part: Dataset) -> dict[str, float]:
    """`retrieval_metrics` of one split, from the stores."""
    images, captions = [image.id for image in part.images], [caption.id for caption in part.captions]
    seen = np.concatenate([rows for _, rows in embed_images(model, regions, images)])
    told = np.concatenate([rows for _, rows in embed_captions(model, tokens, captions)])
    return retrieval_metrics(seen, images, told, [part.owner[name] for name in captions])


def embed_tokens(model: Tern, captions: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors of fresh captions, for instance typed ones.

    Args:
        captions: for each its (l, d) wordpiece features, [CLS] first

    Returns: (n, e) float32 of unit length
    """
    check_dim("wordpiece", captions, model.token_dim)
    lengths = np.array([len(rows) for rows in captions], np.int64)
    return forward_captions(model, pad_captions(as_stored(captions), lengths))


def embed_regions(model: Tern, images: Sequence[tuple[np.ndarray, np.ndarray, tuple[int, int]]]) -> np.ndarray:
    """Vectors of fresh images.

    Args:
        images: for each its (r, d) region features, (r, 4) boxes x1 y1 x2 y2 in pixels, and (width, height) in pixels

    Returns: (b, e) float32 of unit length
    """
    features, boxes, sizes = zip(*images, strict=True)
    check_dim("region", features, model.region_dim)
    lengths = np.array([len(rows) for rows in features], np.int64)
    return forward_images(model, pad_images(as_stored(features), np.concatenate(boxes), np.array(sizes), lengths))


def as_stored(items: Sequence[np.ndarray]) -> np.ndarray:
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
def forward_images(model: Tern, batch: Images) -> np.ndarray:
    """One padded batch -> (b, e) float32"""
    device = next(model.parameters()).device
    parts = (batch.features, batch.boxes, batch.sizes, batch.mask)
    return model.embed_images(*(part.to(device) for part in parts)).cpu().numpy()


@torch.inference_mode()
def forward_captions(model: Tern, batch: Captions) -> np.ndarray:
    """One padded batch -> (n, e) float32"""
    device = next(model.parameters()).device
    return model.embed_captions(batch.features.to(device), batch.mask.to(device)).cpu().numpy()
