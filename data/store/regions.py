"""Regions of the images of a region store, all columns that a model reads."""

from collections.abc import Sequence

import numpy as np

from data.store.store import Store


def read_image_regions(
    store: Store, ids: Sequence[str]
) -> list[tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]]:
    """Read the regions of images of a region store, each column of all of them at once.

    Returns:
        Per image its features (r, d), boxes (r, 4) in pixels, (width, height) in pixels, and scores (r,).
    """
    ends = np.cumsum(store.lengths(ids))[:-1]
    features, boxes, scores = (np.split(store.read(field, ids), ends) for field in ("features", "boxes", "scores"))
    sizes = [(int(width), int(height)) for width, height in store.read("size", ids)]
    return list(zip(features, boxes, sizes, scores, strict=True))
