"""How well vectors retrieve: hit R@K, ranks and rsum, both ways, by image id.

The protocol is the field's (VSE++, TERN): from an image, the rank of its best caption among all
captions; from a caption, the rank of its image among all images. Ranks start at 0 inside this file.

Ties: the rank of a query is the number of gallery rows of other images that score higher, plus those
that score the same and whose image id is smaller. So the result does not depend on the order of the
rows, and vectors that are all alike score like chance, neither 100 nor 0. Scores closer than TIE are
the same: a matrix product adds equal rows in different orders, and their scores differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CUTS = (1, 5, 10)
TIE = 1e-6  # of a cosine
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
    image_labels, caption_labels = labels(images, image_ids, captions, caption_image_ids)
    asked = np.isin(image_labels, caption_labels)
    found = {
        "i2t": ranks(images[asked], image_labels[asked], captions, caption_labels),
        "t2i": ranks(captions, caption_labels, images, image_labels),
    }
    result: dict[str, float] = {}
    for way, rank in found.items():
        for cut in CUTS:
            result[f"{way}_r{cut}"] = 100 * float(np.mean(rank < cut))
        result[f"{way}_medr"] = float(np.floor(np.median(rank)) + 1)
        result[f"{way}_meanr"] = float(np.mean(rank) + 1)
    result["rsum"] = sum(result[f"{way}_r{cut}"] for way in found for cut in CUTS)
    return result


def labels(
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


def ranks(queries: np.ndarray, query_labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray) -> np.ndarray:
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
        ahead = (lead > TIE) | ((lead >= -TIE) & (gallery_labels < own))  # (s, g)
        found[part] = ahead.sum(axis=1)
    return found
