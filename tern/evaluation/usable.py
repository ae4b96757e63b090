"""Metrics of vectors of which some cannot be used: their queries are missed, and they are in no gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tern.evaluation.metrics import MissedQueries, retrieval_metrics, summarize_ranks
from tern.evaluation.results import RetrievalMetrics


def measure_usable(
    images: np.ndarray, image_ids: Sequence[str], captions: np.ndarray, caption_image_ids: Sequence[str]
) -> RetrievalMetrics:
    """Compute the metrics of `retrieval_metrics` where some vectors are not usable.

    A vector that is not finite or has length 0 is not in the gallery. Its own queries, and those whose only relevant
    items are such vectors, are missed.

    Args:
        images: (N, e) vectors.
        image_ids: N ids, each once.
        captions: (M, e) vectors.
        caption_image_ids: M image ids.

    Raises:
        ValueError: As `retrieval_metrics`, apart from vectors that are not finite.
    """
    image_rows, caption_rows = find_usable_rows(images, image_ids, captions, caption_image_ids)
    missed = count_missed(caption_rows, caption_image_ids)
    if not len(caption_rows):
        none = np.zeros(0, np.int64)
        return summarize_ranks(none, none, missed)
    ids, of = [image_ids[row] for row in image_rows], [caption_image_ids[row] for row in caption_rows]
    return retrieval_metrics(images[image_rows], ids, captions[caption_rows], of, missed)


def count_missed(caption_rows: np.ndarray, caption_image_ids: Sequence[str]) -> MissedQueries:
    """Count the queries without a usable vector or relevant item.

    Args:
        caption_rows: Rows of the captions with usable vectors of such images, from `find_usable_rows`.
        caption_image_ids: M image ids.
    """
    answerable = {caption_image_ids[row] for row in caption_rows}
    return MissedQueries(len(set(caption_image_ids) - answerable), len(caption_image_ids) - len(caption_rows))


def find_usable_rows(
    images: np.ndarray, image_ids: Sequence[str], captions: np.ndarray, caption_image_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of images with usable vectors, and of captions with usable vectors of such images."""
    usable_images, usable_captions = (np.isfinite(rows).all(axis=1) & rows.any(axis=1) for rows in (images, captions))
    unusable_ids = {name for name, is_usable in zip(image_ids, usable_images, strict=True) if not is_usable}
    usable_captions &= np.array([name not in unusable_ids for name in caption_image_ids], bool)
    return np.flatnonzero(usable_images), np.flatnonzero(usable_captions)
