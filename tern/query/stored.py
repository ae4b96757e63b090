"""Regions of stored images, as the graph of images reads them."""

from collections.abc import Sequence

import numpy as np

from data.store import Store
from tern.query.side import ImageRegions


def read_image_regions(store: Store, ids: Sequence[str]) -> list[ImageRegions]:
    """Read the regions of images of a region store, each column of all of them at once."""
    ends = np.cumsum(store.lengths(ids))[:-1]
    features, boxes, scores = (np.split(store.read(field, ids), ends) for field in ("features", "boxes", "scores"))
    sizes = [(int(width), int(height)) for width, height in store.read("size", ids)]
    return list(zip(features, boxes, sizes, scores, strict=True))
