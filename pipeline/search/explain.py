"""Regions of hits that match a query: each region is embedded as if it were an image of its own."""

from collections.abc import Iterator, Sequence

import numpy as np

from index.search import IndexHit
from pipeline.search.encode import QueryEncoder
from pipeline.search.hits import Region
from pipeline.search.stored_images import StoredImages

REGIONS_PER_HIT = 2


def find_matching_regions(
    hits: Sequence[IndexHit], query: np.ndarray, stored_images: StoredImages, encoder: QueryEncoder
) -> Iterator[tuple[Region, ...]]:
    """Find the regions of each hit whose vectors, embedded one by one, are nearest to a query.

    The cells of a grid are none: their borders say nothing about the image.

    Args:
        hits: Images.
        query: (e,) float32, unit length.
        stored_images: Regions of the images.
        encoder: Model that embeds regions.

    Yields:
        Per hit at most `REGIONS_PER_HIT` regions, best first.
    """
    if stored_images.store.recipe.get("extractor") == "grid":
        yield from ((),) * len(hits)
        return
    # An image that became unreadable after it was indexed is not in the store.
    images = {hit.id: stored_images.read_regions(hit.id) for hit in hits if hit.id in stored_images}
    vectors = iter(encoder.embed_single_regions(list(images.values())))
    for hit in hits:
        if hit.id in images:
            yield _select_regions(stored_images, hit.id, images[hit.id][1], next(vectors) @ query)
        else:
            yield ()


def _select_regions(
    stored_images: StoredImages, image_id: str, boxes: np.ndarray, scores: np.ndarray
) -> tuple[Region, ...]:
    """Select the regions (r) of an image with the best scores; the whole-image region is none of them."""
    store = stored_images.store
    class_ids, names = store.read("class_ids", [image_id]), store.recipe.get("classes", [])
    # A class id below 0 marks the whole image, or regions of an imported format without classes.
    has_classes = (class_ids >= 0).any()
    order = [i for i in np.argsort(-scores, kind="stable") if class_ids[i] >= 0 or not has_classes]
    labels = [names[class_id] if 0 <= class_id < len(names) else "" for class_id in class_ids]
    return tuple(_make_region(boxes[i], labels[i], scores[i]) for i in order[:REGIONS_PER_HIT])


def _make_region(box: np.ndarray, label: str, score: float) -> Region:
    x1, y1, x2, y2 = map(float, box)
    return Region((x1, y1, x2, y2), label, float(score))
