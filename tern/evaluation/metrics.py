"""How well vectors retrieve: hit R@K, ranks and rsum, both ways, by image id.

The protocol is the field's (VSE++, TERN): from an image, the rank of its best caption among all
captions; from a caption, the rank of its image among all images. Ranks start at 0 inside this file.

Ties: the rank of a query is the number of gallery rows of other images that score higher, plus those
that score the same and whose image id is smaller. So the result does not depend on the order of the
rows, and vectors that are all alike score like chance, neither 100 nor 0. Scores closer than TIE are
the same: a matrix product adds equal rows in different orders, and their scores differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

RECALL_CUTOFFS = (1, 5, 10)
TIE_TOLERANCE = 1e-6  # of a cosine
BLOCK_BYTES = 64 * 2**20  # of one block of scores; memory does not grow with queries times gallery


def retrieval_metrics(
    images: np.ndarray, image_ids: Sequence[str], captions: np.ndarray, caption_image_ids: Sequence[str]
) -> dict[str, float]:
    """Recalls in percent, ranks from 1, both ways.

    Args:
        images: (N, e) vectors; scores are dot products
        image_ids: N ids, each once
        captions: (M, e) vectors
        caption_image_ids: for each caption the id of its image; any number of captions an image

    Returns: `i2t_r1 i2t_r5 i2t_r10 i2t_medr i2t_meanr`, the same for `t2i`, and `rsum`, the sum of the
        six recalls (chance at N images and 5N captions is close to 0, the top is 600). medr is
        floor(median) + 1 as the authors have it. An image without captions is no query, but stays in the gallery.

    Raises:
        ValueError: vectors that are not finite, ids that do not fit the rows, an image twice, a
            caption whose image is not there
    """
    return summarize_ranks(
        *compute_ranks(images, captions, *encode_image_ids(images, image_ids, captions, caption_image_ids))
    )


def summarize_ranks(i2t: np.ndarray, t2i: np.ndarray) -> dict[str, float]:
    """The figures of `retrieval_metrics` from the ranks of `both_ranks`: i2t (N,) with -1 for no query, t2i (M,)."""
    found = {"i2t": i2t[i2t >= 0], "t2i": t2i}
    result: dict[str, float] = {}
    for way, rank in found.items():
        for cut in RECALL_CUTOFFS:
            result[f"{way}_r{cut}"] = 100 * float(np.mean(rank < cut))
        result[f"{way}_medr"] = float(np.floor(np.median(rank)) + 1)
        result[f"{way}_meanr"] = float(np.mean(rank) + 1)
    result["rsum"] = sum(result[f"{way}_r{cut}"] for way in found for cut in RECALL_CUTOFFS)
    return result


def make_folds(
    image_ids: Sequence[str], caption_image_ids: Sequence[str], count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of images and of captions of each of `count` equal parts: the 5 x 1K protocol of COCO.

    A fold is a run of images in the order given, which is the order of the test split, and the captions of those
    images, wherever they stand. A result is the mean over the folds of each metric; the median rank is averaged too.

    Raises:
        ValueError: the images do not divide into so many parts; a caption whose image is not there
    """
    total = len(image_ids)
    if count < 1 or total % count or not total:
        raise ValueError(f"{total} images do not make {count} equal folds; give a divisor of {total}, or no folds")
    of = {name: place * count // total for place, name in enumerate(image_ids)}
    if lost := [name for name in caption_image_ids if name not in of]:
        raise ValueError(f"a caption belongs to image {lost[0]!r}, which is not among the images; add it")
    own = np.array([of[name] for name in caption_image_ids], np.int64)
    rows = np.arange(total).reshape(count, -1)
    return [(rows[fold], np.flatnonzero(own == fold)) for fold in range(count)]


def average_metrics(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each metric averaged over the folds."""
    return {name: float(np.mean([result[name] for result in results])) for name in results[0]}


def encode_image_ids(
    images: np.ndarray, image_ids: Sequence[str], captions: np.ndarray, caption_image_ids: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids into whole numbers in the order of the ids: (N,) and (M,) int64. Errors as `retrieval_metrics`."""
    for what, rows, ids in (("images", images, image_ids), ("captions", captions, caption_image_ids)):
        if len(rows) != len(ids) or len(rows) == 0:
            raise ValueError(f"{len(rows)} vectors of {what} and {len(ids)} ids; give as many ids as rows, and some")
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise ValueError(f"vector {bad[0]} of {what} (image id {ids[bad[0]]!r}) is not finite; embed it again")
    names, image_labels, counts = np.unique(np.asarray(image_ids), return_inverse=True, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"image id {str(names[counts.argmax()])!r} stands {counts.max()} times; give each image once")
    owners = np.asarray(caption_image_ids)
    lost = owners[~np.isin(owners, names)]
    if len(lost):
        raise ValueError(f"a caption belongs to image {str(lost[0])!r}, which is not among the images; add it")
    return image_labels, np.searchsorted(names, owners)


def compute_ranks(
    images: np.ndarray, captions: np.ndarray, image_labels: np.ndarray, caption_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of both directions from one product, and without a sort: what beats the right answer is counted.

    Rows and columns are put into the order of the labels. What stands before a query's own then wins a tie, what stands
    behind it loses, so that one comparison an element does for the rule of this file.

    Args:
        images: (N, e); captions: (M, e)
        image_labels, caption_labels: (N,) and (M,) int64 from `labels`

    Returns: i2t (N,), with -1 for an image without captions, and t2i (M,), int64; the same as two calls of `ranks`
    """
    row_order, column_order = np.argsort(image_labels), np.argsort(caption_labels, kind="stable")
    seen, told = images[row_order].astype(np.float32), captions[column_order].astype(np.float32)
    own = np.searchsorted(image_labels[row_order], caption_labels[column_order])  # (M,) row of each caption's image
    first, last = (np.searchsorted(own, np.arange(len(seen)), side) for side in ("left", "right"))
    right = positive_scores(seen, told, own)
    i2t, t2i = np.full(len(seen), -1, np.int64), np.zeros(len(told), np.int64)
    for start, scores in iter_score_blocks(seen, told):
        for row, score in enumerate(scores, start):
            a, b = first[row], last[row]
            if a < b:
                best = right[a:b].max()
                i2t[row] = (score[:a] >= np.float32(best - TIE_TOLERANCE)).sum() + (
                    score[b:] > np.float32(best + TIE_TOLERANCE)
                ).sum()
        t2i += count_better_rows(scores, right, own - start)
    return unsort(i2t, row_order), unsort(t2i, column_order)


def positive_scores(seen: np.ndarray, told: np.ndarray, own: np.ndarray) -> np.ndarray:
    """seen (N, e), told (M, e), own (M,) rows of seen -> (M,) float64 score of each caption with its image"""
    step = max(1, BLOCK_BYTES // (8 * seen.shape[1]))
    parts = (slice(start, start + step) for start in range(0, len(told), step))
    return np.concatenate([np.einsum("me,me->m", told[p], seen[own[p]], dtype=np.float64) for p in parts])


def iter_score_blocks(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Scores by blocks of rows, as (first row, (s, M) float32), s so small that a byte counts them."""
    step = min(255, max(1, BLOCK_BYTES // (4 * len(columns))))
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step] @ columns.T


def count_better_rows(scores: np.ndarray, right: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many rows of a block beat each column's right score.

    Args:
        scores: (s, M); right: (M,)
        own: (M,) rising, the row of the right answer counted from the block's first: below 0 or from s on if elsewhere

    Returns: (M,) uint8
    """
    low, high = (right - TIE_TOLERANCE).astype(np.float32), (right + TIE_TOLERANCE).astype(np.float32)
    a, b = np.searchsorted(own, [0, len(scores)])  # columns before a have their own above this block, from b on below
    row = np.arange(len(scores))[:, None]
    middle = scores[:, a:b]
    ahead = (middle > high[a:b]) & (row != own[a:b]) | (middle >= low[a:b]) & (row < own[a:b])
    parts = scores[:, :a] > high[:a], ahead, scores[:, b:] >= low[b:]
    return np.concatenate([part.view(np.uint8).sum(axis=0, dtype=np.uint8) for part in parts])


def unsort(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """values of rows[order] -> values of rows"""
    found = np.empty_like(values)
    found[order] = values
    return found


def rank_queries(
    queries: np.ndarray, query_labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray
) -> np.ndarray:
    """Rank of the best true row of each query, from 0, by the tie rule of this file.

    Args:
        queries: (q, e); gallery: (g, e)
        query_labels, gallery_labels: (q,) and (g,) int64 from `labels`; every query has a true row

    Returns: (q,) int64
    """
    found = np.empty(len(queries), np.int64)
    step = max(1, BLOCK_BYTES // (4 * len(gallery)))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        scores = queries[part].astype(np.float32) @ gallery.T.astype(np.float32)  # (s, g)
        own = query_labels[part, None]  # (s, 1)
        best = np.where(gallery_labels == own, scores, -np.inf).max(axis=1, keepdims=True)  # (s, 1)
        lead = scores - best  # (s, g)
        ahead = (lead > TIE_TOLERANCE) | ((lead >= -TIE_TOLERANCE) & (gallery_labels < own))  # (s, g)
        found[part] = ahead.sum(axis=1)
    return found
