"""Validation of `tern`."""

from __future__ import annotations

import numpy as np
from torch import nn

from data.datasets import Dataset
from data.store import Store
from tern.evaluation.metrics import retrieval_metrics
from tern.model.embed import embed_captions, embed_images


def evaluate_split(model: nn.Module, regions: Store, tokens: Store, part: Dataset) -> dict[str, float]:
    """`retrieval_metrics` of one split, from the stores."""
    images, captions = [image.id for image in part.images], [caption.id for caption in part.captions]
    seen = np.concatenate([rows for _, rows in embed_images(model, regions, images)])
    told = np.concatenate([rows for _, rows in embed_captions(model, tokens, captions)])
    return retrieval_metrics(seen, images, told, [part.image_id_by_caption_id[name] for name in captions])
