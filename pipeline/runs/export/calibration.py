"""Calibration queries of a model, from the held-out images and captions of its dataset.

Shapes: n queries, m items, e embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.alignment import Embeddings, combine_scores, compute_alignment_scores
from data.datasets import Dataset
from data.store import Store, read_intact_row_vectors
from pipeline.stages.dataset import HELD_OUT, held_out_ids, splits_with_captions
from pipeline.stages.results import VectorStores
from tern.query import Calibration, CalibrationQueries, select_by_hash

MIN_QUERIES = 2


@dataclass(frozen=True)
class _Items:
    """Items of one kind, with the image that each belongs to."""

    store: Store
    row_store: Store | None
    ids: Sequence[str]
    image_ids: Sequence[str]

    def select_queries(self) -> _Items:
        chosen = select_by_hash(self.ids)
        return replace(self, ids=[self.ids[i] for i in chosen], image_ids=[self.image_ids[i] for i in chosen])

    def read(self) -> Embeddings:
        rows = None if self.row_store is None else read_intact_row_vectors(self.row_store, self.ids)
        return Embeddings(self.store.read("features", self.ids).astype(np.float32), rows)


def make_calibration(vectors: VectorStores, dataset: Dataset) -> Calibration | None:
    """Make the calibration of a model from `val`, or from `test` if `val` has fewer than two images with captions.

    Args:
        vectors: Vector stores of the model, with the number of best hits that a search reranks. If it is 0, the scores
            are cosines and the queries have no row vectors, so that no index reranks their hits.
        dataset: Dataset of the vectors.

    Returns:
        The calibration; None if neither split has two images with captions.
    """
    image_store, caption_store = Store(vectors.images), Store(vectors.captions)
    image_rows, caption_rows = (
        Store(path) if path is not None and vectors.rerank else None
        for path in (vectors.image_rows, vectors.caption_rows)
    )
    for split in splits_with_captions(dataset, HELD_OUT):
        image_ids, caption_ids, image_of_caption = held_out_ids(dataset, image_store, caption_store, split)
        captioned = sorted(set(image_of_caption))
        if len(captioned) < MIN_QUERIES:
            continue
        images = _Items(image_store, image_rows, image_ids, image_ids)
        captions = _Items(caption_store, caption_rows, caption_ids, image_of_caption)
        caption_queries = captions.select_queries()
        texts = [dataset.captions_by_id[name].text for name in caption_queries.ids]
        image_queries = replace(images, ids=captioned, image_ids=captioned).select_queries()
        return Calibration(
            split=split,
            num_images=len(image_ids),
            num_captions=len(caption_ids),
            caption=_score(texts, caption_queries, images, vectors),
            image=_score(image_queries.ids, image_queries, captions, vectors),
        )
    return None


def _score(texts: Sequence[str], queries: _Items, items: _Items, vectors: VectorStores) -> CalibrationQueries:
    """Find the best relevant and the best other score of each query, over all items."""
    query_part, item_part = queries.read(), items.read()
    codes = {name: code for code, name in enumerate(sorted({*queries.image_ids, *items.image_ids}))}
    item_codes = np.array([codes[name] for name in items.image_ids])
    relevant, other = np.full((2, len(query_part)), -1, np.float32)  # the smallest score
    for row, name in enumerate(queries.image_ids):
        cosines = item_part.vectors @ query_part.vectors[row]
        is_relevant = item_codes == codes[name]
        # What an index reranks, and the relevant items, whose score is also needed where it does not.
        candidates = np.union1d(np.argsort(-cosines)[: vectors.rerank or None], np.flatnonzero(is_relevant))
        scores = cosines[candidates]
        if query_part.rows is not None and item_part.rows is not None:
            alignments = compute_alignment_scores(query_part.rows.select([row]), item_part.rows.select(candidates))
            scores = combine_scores(scores, alignments, vectors.alignment_weight)
        relevant[row] = np.where(is_relevant[candidates], scores, -1).max()
        other[row] = np.where(is_relevant[candidates], -1, scores).max()
    return CalibrationQueries(tuple(texts), query_part.vectors, relevant, other, query_part.rows)
