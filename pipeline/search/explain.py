"""Regions of hits that match a query: each region is embedded as if it were an image of its own."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.search.encode import QueryEncoder
from pipeline.search.hits import Region
from pipeline.search.stored_images import StoredImages

REGIONS_PER_HIT = 2


@dataclass(frozen=True)
class EmbeddedRegions:
    """The regions of one image that may be shown."""

    boxes: np.ndarray
    """(r, 4) float32, x1 y1 x2 y2 in pixels."""
    labels: tuple[str, ...]
    """Class of each region; empty texts if the regions have no classes."""
    vectors: np.ndarray
    """(r, e) float32, unit length: each region embedded alone."""

    def find_matching(self, query: np.ndarray) -> tuple[Region, ...]:
        """Find the regions whose vectors are nearest to a query (e,): at most `REGIONS_PER_HIT`, best first."""
        scores = self.vectors @ query
        order = np.argsort(-scores, kind="stable")[:REGIONS_PER_HIT]
        return tuple(_make_region(self.boxes[i], self.labels[i], scores[i]) for i in order)


def embed_regions_of_images(
    image_ids: Collection[str], stored_images: StoredImages, encoder: QueryEncoder
) -> Mapping[str, EmbeddedRegions]:
    """Embed the regions of some images in one pass; the whole-image region is none of them.

    The cells of a grid are none: their borders say nothing about the image.

    Args:
        image_ids: Ids of images. One that became unreadable after it was indexed is not in the store and has none.
        stored_images: Regions of the images.
        encoder: Model that embeds regions.

    Returns:
        The regions by the id of the image.
    """
    store = stored_images.store
    if store.recipe.get("extractor") == "grid":
        return {}
    known = [image_id for image_id in dict.fromkeys(image_ids) if image_id in stored_images]
    images = stored_images.read_images(known)
    if not images:
        return {}
    names, selected, labels = store.recipe.get("classes", []), [], []
    for image in images:
        # A class id below 0 marks the whole image, or regions of an imported format without classes.
        has_classes = bool((image.class_ids >= 0).any())
        rows = np.flatnonzero((image.class_ids >= 0) | (not has_classes))
        features, boxes, size, scores = image.regions
        selected.append((features[rows], boxes[rows], size, scores[rows]))
        labels.append(tuple(names[i] if 0 <= i < len(names) else "" for i in image.class_ids[rows]))
    vectors = encoder.embed_single_regions(selected)
    return {
        image_id: EmbeddedRegions(regions[1], names_of_image, rows)
        for image_id, regions, names_of_image, rows in zip(known, selected, labels, vectors, strict=True)
    }


def _make_region(box: np.ndarray, label: str, score: float) -> Region:
    x1, y1, x2, y2 = map(float, box)
    return Region((x1, y1, x2, y2), label, float(score))
