"""Retrieval metrics of a model on a split, straight from the stores. Used after each epoch."""

from __future__ import annotations

import numpy as np
from torch import nn

from data.datasets import Dataset
from data.store import Store
from tern.evaluation.results import RetrievalMetrics
from tern.evaluation.usable import measure_usable
from tern.model.embed import embed_captions, embed_images


def evaluate_split(model: nn.Module, regions: Store, tokens: Store, dataset: Dataset) -> RetrievalMetrics:
    """Compute the metrics of a model on all images and captions of a dataset, for example of one split.

    Args:
        model: Network in any mode.
        regions: Region store with all images of `dataset`.
        tokens: Token store with all captions of `dataset`.
        dataset: Images and captions of the split.
    """
    image_ids, caption_ids = [image.id for image in dataset.images], [caption.id for caption in dataset.captions]
    image_vectors = np.concatenate([rows for _, rows in embed_images(model, regions, image_ids)])
    caption_vectors = np.concatenate([rows for _, rows in embed_captions(model, tokens, caption_ids)])
    caption_image_ids = [dataset.image_id_by_caption_id[name] for name in caption_ids]
    return measure_usable(image_vectors, image_ids, caption_vectors, caption_image_ids)
