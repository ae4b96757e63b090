"""Ranks and metrics of vectors of which some cannot be used: their queries are missed, and they are in no gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tern.evaluation.metrics import MissedQueries, compute_ranks, encode_image_ids, summarize_ranks
from tern.evaluation.results import RetrievalMetrics

NO_QUERY = -1  # an image of the gallery without captions; the rank that `compute_ranks` gives it
MISSED = -2  # a query without a usable vector, or whose relevant items have none
ABSENT = -3  # an image without a usable vector and without captions: neither a query nor in the gallery


def measure_usable(
    images: np.ndarray, image_ids: Sequence[str], captions: np.ndarray, caption_image_ids: Sequence[str]
) -> RetrievalMetrics:
    """Compute the metrics of `retrieval_metrics` where some vectors are not usable.

    The arguments and errors are those of `rank_usable`.
    """
    return summarize_usable(*rank_usable(images, image_ids, captions, caption_image_ids))


def rank_usable(
    images: np.ndarray, image_ids: Sequence[str], captions: np.ndarray, caption_image_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the ranks of `compute_ranks` where some vectors are not usable.

    A vector that is not finite or has length 0 is not in the gallery. Its own queries, and those whose only relevant
    items are such vectors, are missed.

    Args:
        images: (N, e) vectors.
        image_ids: N ids, each once.
        captions: (M, e) vectors.
        caption_image_ids: M image ids.

    Returns:
        i2t (N,) and t2i (M,) int64: ranks from 0, `MISSED`, and for images `NO_QUERY` or `ABSENT`.

    Raises:
        ValueError: As `retrieval_metrics`, apart from vectors that are not finite.
    """
    image_rows, caption_rows = find_usable_rows(images, image_ids, captions, caption_image_ids)
    is_query = np.isin(np.asarray(image_ids), np.asarray(caption_image_ids))
    i2t, t2i = np.where(is_query, MISSED, ABSENT), np.full(len(captions), MISSED)
    i2t[image_rows] = np.where(is_query[image_rows], MISSED, NO_QUERY)
    if len(caption_rows):
        ids, of = [image_ids[row] for row in image_rows], [caption_image_ids[row] for row in caption_rows]
        inputs = images[image_rows], captions[caption_rows]
        labels = encode_image_ids(inputs[0], ids, inputs[1], of)
        image_ranks, t2i[caption_rows] = compute_ranks(*inputs, *labels)
        answered = image_ranks != NO_QUERY
        i2t[image_rows[answered]] = image_ranks[answered]
    return i2t, t2i


def summarize_usable(i2t: np.ndarray, t2i: np.ndarray) -> RetrievalMetrics:
    """Compute the metrics of the ranks that `rank_usable` returns."""
    missed = MissedQueries(int((i2t == MISSED).sum()), int((t2i == MISSED).sum()))
    return summarize_ranks(i2t[i2t >= NO_QUERY], t2i[t2i >= 0], missed)


def find_usable_rows(
    images: np.ndarray, image_ids: Sequence[str], captions: np.ndarray, caption_image_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of images with usable vectors, and of captions with usable vectors of such images."""
    usable_images, usable_captions = (np.isfinite(rows).all(axis=1) & rows.any(axis=1) for rows in (images, captions))
    unusable_ids = {name for name, is_usable in zip(image_ids, usable_images, strict=True) if not is_usable}
    usable_captions &= np.array([name not in unusable_ids for name in caption_image_ids], bool)
    return np.flatnonzero(usable_images), np.flatnonzero(usable_captions)
