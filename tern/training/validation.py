"""Retrieval metrics of a model on a split, straight from the stores. Used after each epoch and at the end."""

from __future__ import annotations

from torch import nn

from data.alignment import Embeddings, concatenate_embeddings
from data.datasets import Dataset
from data.store import Store
from tern.evaluation.rerank import choose_alignment_weight, rerank_split
from tern.evaluation.results import RetrievalMetrics
from tern.evaluation.usable import find_usable_rows, measure_usable
from tern.model.embed import embed_captions, embed_images


def evaluate_split(model: nn.Module, regions: Store, tokens: Store, dataset: Dataset) -> RetrievalMetrics:
    """Compute the metrics of a model on all images and captions of a dataset, for example of one split.

    Args:
        model: Network in any mode.
        regions: Region store with all images of `dataset`.
        tokens: Token store with all captions of `dataset`.
        dataset: Images and captions of the split.
    """
    images, captions = _embed_split(model, regions, tokens, dataset)
    image_ids = [image.id for image in dataset.images]
    caption_image_ids = [caption.image_id for caption in dataset.captions]
    return measure_usable(images.vectors, image_ids, captions.vectors, caption_image_ids)


def choose_weight_on_split(model: nn.Module, regions: Store, tokens: Store, dataset: Dataset) -> float:
    """Choose the weight of the alignment score of a model with row vectors on a split with captions.

    The arguments are those of `evaluate_split`.
    """
    images, captions = _embed_split(model, regions, tokens, dataset)
    ids, caption_image_ids = [image.id for image in dataset.images], [caption.image_id for caption in dataset.captions]
    rows, caption_rows = find_usable_rows(images.vectors, ids, captions.vectors, caption_image_ids)
    if not len(caption_rows):
        return 0.0
    names, of = [ids[row] for row in rows], [caption_image_ids[row] for row in caption_rows]
    return choose_alignment_weight(rerank_split(images.select(rows), names, captions.select(caption_rows), of))


def _embed_split(model: nn.Module, regions: Store, tokens: Store, dataset: Dataset) -> tuple[Embeddings, Embeddings]:
    """Embed all images and captions of a dataset, in its order."""
    image_ids, caption_ids = [image.id for image in dataset.images], [caption.id for caption in dataset.captions]
    return (
        concatenate_embeddings([part for _, part in embed_images(model, regions, image_ids)]),
        concatenate_embeddings([part for _, part in embed_captions(model, tokens, caption_ids)]),
    )
