"""NDCG@25: whether the items at the top of a ranking describe much the same as the query, as TERN evaluates it.

Relevances are a matrix of captions by images. They come from ROUGE-L (tern/evaluation/rouge.py), or from a file in the
format of the TERN authors. SPICE is a Java program; its relevances come as such a file.

Shapes: q queries, g gallery rows, s queries of a block, e embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from data.io import atomic_write
from tern.evaluation import metrics
from tern.evaluation.metrics import TIE_TOLERANCE, encode_image_ids

CUTOFF = 25
NPY_MAGIC = b"\x93NUMPY"


def ndcg(
    images: np.ndarray,
    image_ids: Sequence[str],
    captions: np.ndarray,
    caption_image_ids: Sequence[str],
    relevances: np.ndarray,
    rows: np.ndarray | None = None,
    columns: np.ndarray | None = None,
) -> dict[str, float]:
    """Compute the mean NDCG@25 of both directions, 0 to 1.

    DCG is the sum over the first 25 results of (2^relevance - 1) / log2(rank + 1), ranks from 1. It is divided by the
    DCG of the 25 most relevant items of the gallery. If that is 0, NDCG is 0 and counts in the mean. A relevance of NaN
    counts as 0: SPICE gives NaN for a caption in which it finds no facts. Equal scores, within `TIE_TOLERANCE`, are
    ordered by image id, then by row.

    Args:
        images: (N, e) vectors, as in `retrieval_metrics`.
        image_ids: N ids.
        captions: (M, e) vectors.
        caption_image_ids: M image ids.
        relevances: Relevances of captions (rows) and images (columns). A memory map is read in blocks.
        rows: (M,) rows of the captions in `relevances`; None for rows in order.
        columns: (N,) columns of the images in `relevances`; None for columns in order.

    Returns:
        The means as `i2t_ndcg` and `t2i_ndcg`.

    Raises:
        ValueError: The matrix does not fit, a relevance is negative or infinite, or as `retrieval_metrics`.
    """
    image_labels, caption_labels = encode_image_ids(images, image_ids, captions, caption_image_ids)
    rows = np.arange(len(captions)) if rows is None else rows
    columns = np.arange(len(images)) if columns is None else columns
    if len(rows) != len(captions) or len(columns) != len(images) or relevances.ndim != 2:
        raise ValueError(
            f"There are {len(rows)} x {len(columns)} relevances for {len(captions)} captions and {len(images)} images. "
            "Pass one row per caption and one column per image."
        )
    if rows.max() >= relevances.shape[0] or columns.max() >= relevances.shape[1]:
        raise ValueError(
            f"The relevances have shape {relevances.shape} for {len(captions)} captions and {len(images)} images. Pass "
            "one row per caption and one column per image."
        )
    query_rows = np.flatnonzero(np.isin(image_labels, caption_labels))
    t2i = ndcg_per_query(
        captions, images, image_labels, lambda part: check_relevances(relevances[rows[part]][:, columns])
    )
    i2t = ndcg_per_query(
        images[query_rows],
        captions,
        caption_labels,
        lambda part: check_relevances(relevances[:, columns[query_rows[part]]][rows].T),
    )
    return {"i2t_ndcg": float(i2t.mean()), "t2i_ndcg": float(t2i.mean())}


def ndcg_per_query(
    queries: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray, relevance: Callable[[slice], np.ndarray]
) -> np.ndarray:
    """Compute the NDCG@25 of each query.

    Args:
        queries: (q, e) vectors.
        gallery: (g, e) vectors.
        gallery_labels: (g,) int64 labels of the image ids, for ties.
        relevance: Function from a slice of the queries to their relevances (s, g).

    Returns:
        (q,) float64.
    """
    order = np.argsort(gallery_labels, kind="stable")
    sorted_gallery = gallery[order].astype(np.float32)
    size = len(gallery)
    cutoff = min(CUTOFF, size)
    discount = 1 / np.log2(np.arange(cutoff) + 2)
    step = max(1, metrics.BLOCK_BYTES // (8 * size))
    values = np.empty(len(queries))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        scores = queries[part].astype(np.float32) @ sorted_gallery.T  # (s, g)
        # The key of an entry is one integer of its score and, in the low digits, its position: no two keys are equal.
        key = np.rint(scores.astype(np.float64) / TIE_TOLERANCE).astype(np.int64) * size - np.arange(size)
        top = order[top_indices(key, cutoff)]  # (s, cutoff)
        gain = np.exp2(relevance(part).astype(np.float64)) - 1  # (s, g)
        dcg = np.take_along_axis(gain, top, axis=1) @ discount
        ideal = np.take_along_axis(gain, top_indices(gain, cutoff), axis=1) @ discount
        values[part] = np.divide(dcg, ideal, out=np.zeros_like(dcg), where=ideal > 0)
    return values


def top_indices(values: np.ndarray, count: int) -> np.ndarray:
    """Return the positions of the largest values per row, largest first: values (s, g) -> (s, count)."""
    indices = np.argpartition(values, values.shape[1] - count, axis=1)[:, values.shape[1] - count :]
    by_value = np.argsort(-np.take_along_axis(values, indices, axis=1), axis=1, kind="stable")
    return np.take_along_axis(indices, by_value, axis=1)


def check_relevances(relevances: np.ndarray) -> np.ndarray:
    """Return the relevances with NaN replaced by 0. Raises ValueError if one is negative or infinite."""
    values = np.nan_to_num(relevances, nan=0.0, posinf=np.inf, neginf=-np.inf)
    if values.size and (values.min() < 0 or values.max() == np.inf):
        invalid = values.min() if values.min() < 0 else np.inf
        raise ValueError(
            f"A relevance is {invalid}. Files of the TERN authors have -1 for a relevance that is not computed yet; "
            "compute all of them."
        )
    return values


def write_relevances(path: Path, blocks: Iterable[np.ndarray]) -> Path:
    """Write blocks of rows in the format of the TERN authors: float32, row by row, without a header.

    Returns:
        The path.
    """
    with atomic_write(Path(path)) as temporary, open(temporary, "wb") as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f4").tobytes())
    return Path(path)


def read_relevances(path: Path, captions: int, images: int) -> np.ndarray:
    """Open a file of relevances as a matrix on disk, which is read when it is used.

    Files `{dataset}-{split}-{rougeL, spice}.npy` of the TERN authors are float32 without a header, despite their
    suffix. Real .npy files are read too. There is one row per caption and one column per image, in the order of the
    split; the captions of an image are consecutive.

    Args:
        path: The file.
        captions: Number of rows.
        images: Number of columns.

    Returns:
        (captions, images) memory map.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The size of the file is not that of such a matrix.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"The file of relevances {path} does not exist. Compute it, or remove spice_file from the plan."
        )
    with open(path, "rb") as file:
        if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
            matrix: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            if matrix.shape != (captions, images) or matrix.dtype.kind != "f":
                raise ValueError(
                    f"{path} holds {matrix.dtype} {matrix.shape}, not floats ({captions}, {images}). Pass the file of "
                    "this split."
                )
            return matrix
    if (size := path.stat().st_size) != 4 * captions * images:
        raise ValueError(
            f"{path} has {size:,} bytes; {captions:,} captions x {images:,} images in float32 have "
            f"{4 * captions * images:,} bytes. Pass the file of this split."
        )
    return np.memmap(path, "<f4", "r", shape=(captions, images))
