"""NDCG@25: whether what stands high in a ranking, right or not, says much the same. After TERN's evaluation.

Relevances are a matrix of captions by images, from ROUGE-L (tern/rouge.py) or read from a file of the TERN authors'
format, which is how those of SPICE come in: SPICE itself is a Java program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from data.io import atomic_write
from tern.evaluation import metrics
from tern.evaluation.metrics import TIE_TOLERANCE, encode_image_ids

CUTOFF = 25
NPY = b"\x93NUMPY"


def ndcg(
    images: np.ndarray,
    image_ids: Sequence[str],
    captions: np.ndarray,
    caption_image_ids: Sequence[str],
    relevances: np.ndarray,
    rows: np.ndarray | None = None,
    columns: np.ndarray | None = None,
) -> dict[str, float]:
    """Mean NDCG@25 of both directions, 0 to 1, as `i2t_ndcg` and `t2i_ndcg`.

    DCG = sum over the first 25 of (2^rel - 1) / log2(place + 1), places from 1; divided by that of the 25 most relevant
    of the gallery; 0 where that is 0, which counts into the mean. NaN relevances count as 0: SPICE gives NaN for a
    caption it finds no facts in. Equal scores, to the nearest TIE, go by image id, then by the order of the rows.

    Args:
        images, image_ids, captions, caption_image_ids: as `retrieval_metrics`
        relevances: of captions (rows) and images (columns); may be a memory map, it is read by blocks
        rows, columns: where the captions and images stand in `relevances`; in the order given by default

    Raises:
        ValueError: as `retrieval_metrics`; a matrix that does not fit; a relevance below 0 or infinite
    """
    image_labels, caption_labels = encode_image_ids(images, image_ids, captions, caption_image_ids)
    rows = np.arange(len(captions)) if rows is None else rows
    columns = np.arange(len(images)) if columns is None else columns
    if len(rows) != len(captions) or len(columns) != len(images) or relevances.ndim != 2:
        raise ValueError(f"{len(rows)} x {len(columns)} relevances for {len(captions)} captions, {len(images)} images")
    if rows.max() >= relevances.shape[0] or columns.max() >= relevances.shape[1]:
        raise ValueError(f"relevances of shape {relevances.shape} for {len(captions)} captions, {len(images)} images")
    asked = np.flatnonzero(np.isin(image_labels, caption_labels))
    t2i = ndcg_per_query(
        captions, images, image_labels, lambda part: check_relevances(relevances[rows[part]][:, columns])
    )
    i2t = ndcg_per_query(
        images[asked],
        captions,
        caption_labels,
        lambda part: check_relevances(relevances[:, columns[asked[part]]][rows].T),
    )
    return {"i2t_ndcg": float(i2t.mean()), "t2i_ndcg": float(t2i.mean())}


def ndcg_per_query(
    queries: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray, relevance: Callable[[slice], np.ndarray]
) -> np.ndarray:
    """queries (q, e), gallery (g, e) with its labels, relevance of a part of the queries (s, g) -> (q,) NDCG@25"""
    order = np.argsort(gallery_labels, kind="stable")
    sorted_gallery = gallery[order].astype(np.float32)
    size = len(gallery)
    cut = min(CUTOFF, size)
    discount = 1 / np.log2(np.arange(cut) + 2)
    step = max(1, metrics.BLOCK_BYTES // (8 * size))
    found = np.empty(len(queries))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        scores = queries[part].astype(np.float32) @ sorted_gallery.T  # (s, g)
        # one whole number an entry that holds the score and, below it, the place: no two are equal
        key = np.rint(scores.astype(np.float64) / TIE_TOLERANCE).astype(np.int64) * size - np.arange(size)
        top = order[top_indices(key, cut)]  # (s, cut)
        gain = np.exp2(relevance(part).astype(np.float64)) - 1  # (s, g)
        dcg = np.take_along_axis(gain, top, axis=1) @ discount
        ideal = np.take_along_axis(gain, top_indices(gain, cut), axis=1) @ discount
        found[part] = np.divide(dcg, ideal, out=np.zeros_like(dcg), where=ideal > 0)
    return found


def top_indices(values: np.ndarray, cut: int) -> np.ndarray:
    """values (s, g) -> (s, cut) places of the largest, the largest first"""
    places = np.argpartition(values, values.shape[1] - cut, axis=1)[:, values.shape[1] - cut :]
    by = np.argsort(-np.take_along_axis(values, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, by, axis=1)


def check_relevances(relevances: np.ndarray) -> np.ndarray:
    """Relevances with NaN as 0; ValueError for one below 0 or infinite."""
    found = np.nan_to_num(relevances, nan=0.0, posinf=np.inf, neginf=-np.inf)
    if found.size and (found.min() < 0 or found.max() == np.inf):
        bad = found.min() if found.min() < 0 else np.inf
        raise ValueError(f"a relevance is {bad}; the authors' files have -1 where one is not computed yet: compute all")
    return found


def write_relevances(path: Path, blocks: Iterable[np.ndarray]) -> Path:
    """Blocks of rows into a file of the authors' format: float32, row after row, no header (whatever its suffix)."""
    with atomic_write(Path(path)) as temporary, open(temporary, "wb") as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f4").tobytes())
    return Path(path)


def read_relevances(path: Path, captions: int, images: int) -> np.ndarray:
    """A file of relevances as a matrix (captions, images) on disk, read as it is used.

    The authors' `{dataset}-{split}-{rougeL, spice}.npy` are float32 without a header, for all their name; real .npy
    files are read too. A row a caption and a column an image, in the order of the split, captions of an image together.

    Raises:
        FileNotFoundError: no such file
        ValueError: its size is not that of such a matrix
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no relevances there; compute them, or leave them out of the plan")
    with open(path, "rb") as file:
        if file.read(len(NPY)) == NPY:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if found.shape != (captions, images) or found.dtype.kind != "f":
                raise ValueError(f"{path} holds {found.dtype} {found.shape}, not floats ({captions}, {images})")
            return found
    if (size := path.stat().st_size) != 4 * captions * images:
        raise ValueError(f"{path} has {size:,} bytes; {captions:,} captions x {images:,} images in float32 have "
                         f"{4 * captions * images:,}: it is of another split")  # fmt: skip
    return np.memmap(path, "<f4", "r", shape=(captions, images))
