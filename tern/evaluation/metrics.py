"""Retrieval metrics of vectors, matched by image id: recall@k, ranks and rsum, in both directions.

The protocol is that of VSE++ and TERN. From an image, the rank is that of its best caption among all captions; from a
caption, it is the rank of its image among all images. Ranks start at 0 inside this file.

Ties: the rank of a query is the number of gallery rows of other images that score higher, plus those that score the
    same
and have a smaller image id. The result therefore does not depend on the order of the rows, and equal vectors score like
chance. Scores that differ by less than `TIE_TOLERANCE` are equal: a matrix product adds equal rows in different orders,
so that their scores differ in the last bits.

Shapes: N images, M captions, q queries, g gallery rows, s rows of a block, e embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tern.evaluation.results import RetrievalMetrics

RECALL_CUTOFFS = (1, 5, 10)
TIE_TOLERANCE = 1e-6  # difference of two cosines
BLOCK_BYTES = 64 * 2**20  # of a block of scores, so that memory does not grow with queries times gallery


class MissedQueries(NamedTuple):
    """Numbers of queries without a usable vector, which are missed at every rank."""

    i2t: int = 0
    t2i: int = 0


def retrieval_metrics(
    images: np.ndarray,
    image_ids: Sequence[str],
    captions: np.ndarray,
    caption_image_ids: Sequence[str],
    missed: MissedQueries = MissedQueries(),  # noqa: B008  # immutable
) -> RetrievalMetrics:
    """Compute recalls in percent and ranks from 1, in both directions.

    The maximum of rsum is 600; `chance_recalls` computes the level of chance. `medr` is floor(median) + 1, as in the
    code of the TERN authors. An image without captions is not a query, but stays in the gallery.

    Args:
        images: (N, e) vectors; scores are dot products.
        image_ids: N ids, each once.
        captions: (M, e) vectors.
        caption_image_ids: M image ids: the image of each caption. An image may have any number of captions.

    Raises:
        ValueError: A vector is not finite, the numbers of ids and vectors differ, an image id occurs twice, or the
            image of a caption is missing.
    """
    ranks = compute_ranks(images, captions, *encode_image_ids(images, image_ids, captions, caption_image_ids))
    return summarize_ranks(*ranks, missed)


def summarize_ranks(
    i2t: np.ndarray,
    t2i: np.ndarray,
    missed: MissedQueries = MissedQueries(),  # noqa: B008  # immutable
) -> RetrievalMetrics:
    """Compute the metrics of ranks from `compute_ranks`.

    Args:
        i2t: (N,) ranks from 0; -1 for an image that is not a query.
        t2i: (M,) ranks from 0.
        missed: Further queries, of which no recall counts; in median and mean they have the last rank.
    """
    values: dict[str, float] = {}
    num_items = {"i2t": len(t2i) + missed.t2i, "t2i": len(i2t) + missed.i2t}
    for direction, answered in (("i2t", i2t[i2t >= 0]), ("t2i", t2i)):
        num_missed = getattr(missed, direction)
        ranks = np.concatenate([answered, np.full(num_missed, num_items[direction] - 1, np.int64)])
        for cutoff in RECALL_CUTOFFS:
            values[f"{direction}_r{cutoff}"] = 100 * (int((answered < cutoff).sum()) / len(ranks))
        values[f"{direction}_medr"] = float(np.floor(np.median(ranks)) + 1)
        values[f"{direction}_meanr"] = float(np.mean(ranks) + 1)
    values["rsum"] = sum(values[f"{direction}_r{cutoff}"] for direction in num_items for cutoff in RECALL_CUTOFFS)
    return RetrievalMetrics.from_flat(values)


def make_folds(
    image_ids: Sequence[str], caption_image_ids: Sequence[str], count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide a split into equal parts, as the 5 x 1K protocol of COCO does.

    A fold is a run of images in the order of `image_ids`, and the captions of these images, wherever they are.

    Args:
        image_ids: N ids, in the order of the test split.
        caption_image_ids: M image ids.
        count: Number of folds.

    Returns:
        Per fold, the rows of its images and of its captions.

    Raises:
        ValueError: `count` does not divide the number of images, or the image of a caption is missing.
    """
    total = len(image_ids)
    if count < 1 or total % count or not total:
        raise ValueError(f"{total} images do not make {count} equal folds. Set folds to a divisor of {total}, or to 0.")
    fold_by_image_id = {name: index * count // total for index, name in enumerate(image_ids)}
    if missing := [name for name in caption_image_ids if name not in fold_by_image_id]:
        raise ValueError(f"A caption belongs to image {missing[0]!r}, which is not among the images. Add the image.")
    caption_fold = np.array([fold_by_image_id[name] for name in caption_image_ids], np.int64)
    rows = np.arange(total).reshape(count, -1)
    return [(rows[fold], np.flatnonzero(caption_fold == fold)) for fold in range(count)]


def average_metrics(results: Sequence[RetrievalMetrics]) -> RetrievalMetrics:
    """Average each metric over the folds, the median rank too."""
    rows = [result.flat() for result in results]
    return RetrievalMetrics.from_flat({name: float(np.mean([row[name] for row in rows])) for name in rows[0]})


def encode_image_ids(
    images: np.ndarray, image_ids: Sequence[str], captions: np.ndarray, caption_image_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Number the image ids in sorted order.

    The arguments are those of `retrieval_metrics`.

    Returns:
        Labels of the images (N,) and of the captions (M,), int64.

    Raises:
        ValueError: As `retrieval_metrics`.
    """
    for kind, vectors, ids in (("images", images, image_ids), ("captions", captions, caption_image_ids)):
        if len(vectors) != len(ids) or len(vectors) == 0:
            raise ValueError(
                f"There are {len(vectors)} vectors of {kind} and {len(ids)} ids. Pass one id per vector, and at least "
                "one."
            )
        invalid = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(invalid):
            raise ValueError(
                f"vector {invalid[0]} of {kind} (image id {ids[invalid[0]]!r}) is not finite. Embed it again."
            )
    names, image_labels, counts = np.unique(np.asarray(image_ids), return_inverse=True, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"image id {str(names[counts.argmax()])!r} occurs {counts.max()} times. Pass each image once.")
    caption_ids = np.asarray(caption_image_ids)
    missing = caption_ids[~np.isin(caption_ids, names)]
    if len(missing):
        raise ValueError(
            f"A caption belongs to image {str(missing[0])!r}, which is not among the images. Add the image."
        )
    return image_labels, np.searchsorted(names, caption_ids)


def compute_ranks(
    images: np.ndarray, captions: np.ndarray, image_labels: np.ndarray, caption_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the ranks of both directions from one matrix product, by counting better rows.

    Rows and columns are ordered by label. Rows before the positive of a query win ties, rows after it lose ties, so
    that one comparison per element suffices for the tie rule of this file.

    Args:
        images: (N, e) vectors.
        captions: (M, e) vectors.
        image_labels: (N,) int64, from `encode_image_ids`.
        caption_labels: (M,) int64, from `encode_image_ids`.

    Returns:
        i2t (N,) int64, -1 for an image without captions, and t2i (M,) int64: the ranks that two calls of `rank_queries`
        return.
    """
    row_order, column_order = np.argsort(image_labels), np.argsort(caption_labels, kind="stable")
    image_vectors, caption_vectors = images[row_order].astype(np.float32), captions[column_order].astype(np.float32)
    image_row = np.searchsorted(
        image_labels[row_order], caption_labels[column_order]
    )  # (M,) row of each caption's image
    rows = np.arange(len(image_vectors))
    first, last = (np.searchsorted(image_row, rows, side) for side in ("left", "right"))
    positive = positive_scores(image_vectors, caption_vectors, image_row)
    i2t, t2i = np.full(len(image_vectors), -1, np.int64), np.zeros(len(caption_vectors), np.int64)
    for start, scores in iter_score_blocks(image_vectors, caption_vectors):
        for row, score in enumerate(scores, start):
            a, b = first[row], last[row]
            if a < b:
                best = positive[a:b].max()
                i2t[row] = (score[:a] >= np.float32(best - TIE_TOLERANCE)).sum() + (
                    score[b:] > np.float32(best + TIE_TOLERANCE)
                ).sum()
        t2i += count_better_rows(scores, positive, image_row - start)
    return unsort(i2t, row_order), unsort(t2i, column_order)


def positive_scores(images: np.ndarray, captions: np.ndarray, image_row: np.ndarray) -> np.ndarray:
    """Compute the score of each caption with its image.

    Args:
        images: (N, e) vectors.
        captions: (M, e) vectors.
        image_row: (M,) row of each caption's image.

    Returns:
        (M,) float64.
    """
    step = max(1, BLOCK_BYTES // (8 * images.shape[1]))
    parts = (slice(start, start + step) for start in range(0, len(captions), step))
    return np.concatenate([np.einsum("me,me->m", captions[p], images[image_row[p]], dtype=np.float64) for p in parts])


def iter_score_blocks(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Compute scores in blocks of rows.

    Yields:
        The first row of the block, and its scores (s, M) float32. s is at most 255, so that one byte holds a count of
        rows.
    """
    step = min(255, max(1, BLOCK_BYTES // (4 * len(columns))))
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step] @ columns.T


def count_better_rows(scores: np.ndarray, positive: np.ndarray, image_row: np.ndarray) -> np.ndarray:
    """Count the rows of a block that rank before the positive of each column.

    Args:
        scores: (s, M) scores of the block.
        positive: (M,) score of each column's positive.
        image_row: (M,) ascending: the row of each column's positive, relative to the first row of the block. It is
            below 0 or at least s if the positive is in another block.

    Returns:
        (M,) uint8.
    """
    low = (positive - TIE_TOLERANCE).astype(np.float32)
    high = (positive + TIE_TOLERANCE).astype(np.float32)
    # The positives of columns before a are in earlier blocks, those of columns from b on in later blocks.
    a, b = np.searchsorted(image_row, [0, len(scores)])
    row = np.arange(len(scores))[:, None]
    inside, positive_row = scores[:, a:b], image_row[a:b]
    is_better = (inside > high[a:b]) & (row != positive_row) | (inside >= low[a:b]) & (row < positive_row)
    parts = scores[:, :a] > high[:a], is_better, scores[:, b:] >= low[b:]
    return np.concatenate([part.view(np.uint8).sum(axis=0, dtype=np.uint8) for part in parts])


def unsort(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Bring the values of `rows[order]` back into the order of `rows`."""
    result = np.empty_like(values)
    result[order] = values
    return result


def rank_queries(
    queries: np.ndarray, query_labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray
) -> np.ndarray:
    """Rank the best positive of each query, from 0, by the tie rule of this file.

    Args:
        queries: (q, e) vectors.
        query_labels: (q,) int64; every query has a positive in the gallery.
        gallery: (g, e) vectors.
        gallery_labels: (g,) int64.

    Returns:
        (q,) int64.
    """
    ranks = np.empty(len(queries), np.int64)
    step = max(1, BLOCK_BYTES // (4 * len(gallery)))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        scores = queries[part].astype(np.float32) @ gallery.T.astype(np.float32)  # (s, g)
        labels = query_labels[part, None]  # (s, 1)
        best = np.where(gallery_labels == labels, scores, -np.inf).max(axis=1, keepdims=True)  # (s, 1)
        lead = scores - best  # (s, g)
        is_better = (lead > TIE_TOLERANCE) | ((lead >= -TIE_TOLERANCE) & (gallery_labels < labels))  # (s, g)
        ranks[part] = is_better.sum(axis=1)
    return ranks
