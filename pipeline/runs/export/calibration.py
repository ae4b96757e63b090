"""Calibration queries of a model, from the held-out images and captions of its dataset.

Shapes: n queries, m items, e embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.datasets import Dataset
from data.store import Store
from pipeline.stages.dataset import HELD_OUT, held_out_ids, splits_with_captions
from pipeline.stages.results import VectorStores
from tern.query import Calibration, CalibrationQueries, select_by_hash

MIN_QUERIES = 2
BLOCK = 4_096  # items that are scored at once


@dataclass(frozen=True)
class _Items:
    """Items of one kind, with the image that each belongs to."""

    store: Store
    ids: Sequence[str]
    image_ids: Sequence[str]

    def select_queries(self) -> _Items:
        chosen = select_by_hash(self.ids)
        return _Items(self.store, [self.ids[i] for i in chosen], [self.image_ids[i] for i in chosen])

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.store.read("features", self.ids[start:stop]).astype(np.float32)


def make_calibration(vectors: VectorStores, dataset: Dataset) -> Calibration | None:
    """Make the calibration of a model from `val`, or from `test` if `val` has fewer than two images with captions.

    Args:
        vectors: Vector stores of the model.
        dataset: Dataset of the vectors.

    Returns:
        The calibration; None if neither split has two images with captions.
    """
    image_store, caption_store = Store(vectors.images), Store(vectors.captions)
    for split in splits_with_captions(dataset, HELD_OUT):
        image_ids, caption_ids, image_of_caption = held_out_ids(dataset, image_store, caption_store, split)
        captioned = sorted(set(image_of_caption))
        if len(captioned) < MIN_QUERIES:
            continue
        images = _Items(image_store, image_ids, image_ids)
        captions = _Items(caption_store, caption_ids, image_of_caption)
        caption_queries = captions.select_queries()
        texts = [dataset.captions_by_id[name].text for name in caption_queries.ids]
        image_queries = _Items(image_store, captioned, captioned).select_queries()
        return Calibration(
            split=split,
            num_images=len(image_ids),
            num_captions=len(caption_ids),
            caption=_score(texts, caption_queries, images),
            image=_score(image_queries.ids, image_queries, captions),
        )
    return None


def _score(texts: Sequence[str], queries: _Items, items: _Items) -> CalibrationQueries:
    """Find the best relevant and the best other score of each query, over all items."""
    vectors = queries.read()
    codes = {name: code for code, name in enumerate(sorted({*queries.image_ids, *items.image_ids}))}
    query_codes = np.array([codes[name] for name in queries.image_ids])[:, None]  # (n, 1)
    item_codes = np.array([codes[name] for name in items.image_ids])
    relevant, other = np.full((2, len(vectors)), -1, np.float32)  # the smallest cosine
    for start in range(0, len(items.ids), BLOCK):
        scores = vectors @ items.read(start, start + BLOCK).T  # (n, m)
        is_relevant = query_codes == item_codes[start : start + BLOCK]
        relevant = np.maximum(relevant, np.where(is_relevant, scores, -1).max(axis=1))
        other = np.maximum(other, np.where(is_relevant, -1, scores).max(axis=1))
    return CalibrationQueries(tuple(texts), vectors, relevant, other)
