"""Regions of hits that match a query: those whose removal from the image lowers its score."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from pipeline.search.encode import QueryEncoder
from pipeline.search.hits import Region
from pipeline.search.stored_images import StoredImage, StoredImages
from tern.query import ImageRegions

REGIONS_PER_HIT = 2
MAX_CANDIDATES = 8  # regions per image that are removed in turn: those that the detector is most certain of
MIN_GAIN = 0.005  # of the score; less than this shows nothing on an image


@dataclass(frozen=True)
class RemovedRegions:
    """What the vector of an image loses without each of its regions, for any query."""

    boxes: tuple[tuple[float, float, float, float], ...]
    """Box of each region that is removed, x1 y1 x2 y2 in pixels."""
    labels: tuple[str, ...]
    """Its class; an empty text if the regions have no classes."""
    differences: np.ndarray
    """(c, e) float32: the vector of the image minus its vector without the region."""

    def find_matching(self, query: np.ndarray) -> tuple[Region, ...]:
        """Find the regions that raise the score of a query (e,) most: at most `REGIONS_PER_HIT`, best first."""
        gains = self.differences @ query
        order = [int(i) for i in np.argsort(-gains, kind="stable")[:REGIONS_PER_HIT] if gains[i] >= MIN_GAIN]
        return tuple(Region(self.boxes[i], self.labels[i], float(gains[i])) for i in order)


def remove_regions(
    image_ids: Collection[str], stored_images: StoredImages, encoder: QueryEncoder
) -> dict[str, RemovedRegions]:
    """Embed images without each of their regions, all images in one pass; the whole-image region always stays.

    The cells of a grid explain nothing: their borders say nothing about the image.

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
    images = dict(zip(known, stored_images.read_images(known), strict=True))
    positions = {image_id: _choose_candidates(image) for image_id, image in images.items()}
    images = {image_id: image for image_id, image in images.items() if positions[image_id]}
    if not images:
        return {}
    variants = [_make_variants(image.regions, positions[image_id]) for image_id, image in images.items()]
    vectors = encoder.embed_regions([variant for group in variants for variant in group])
    groups = np.split(vectors, np.cumsum([len(group) for group in variants])[:-1])
    names = store.recipe.get("classes", [])
    return {
        image_id: _describe(image, positions[image_id], names, rows[0] - rows[1:])
        for (image_id, image), rows in zip(images.items(), groups, strict=True)
    }


def _choose_candidates(image: StoredImage) -> list[int]:
    """Return the positions of the regions of an image that may explain a hit, most certain first."""
    if len(image.class_ids) < 2:  # an image without regions has no vector
        return []
    # A class id below 0 marks the whole image, or regions of an imported format without classes.
    has_classes = (image.class_ids >= 0).any()
    order = np.argsort(-image.regions[3], kind="stable")
    return [int(i) for i in order if image.class_ids[i] >= 0 or not has_classes][:MAX_CANDIDATES]


def _make_variants(regions: ImageRegions, positions: list[int]) -> list[ImageRegions]:
    """Return the regions of an image, and these without each candidate."""
    features, boxes, size, scores = regions
    variants = [regions]
    for position in positions:
        rest = np.delete(np.arange(len(boxes)), position)
        variants.append((features[rest], boxes[rest], size, scores[rest]))
    return variants


def _describe(image: StoredImage, positions: list[int], names: list[str], differences: np.ndarray) -> RemovedRegions:
    x1, y1, x2, y2 = image.regions[1][positions].T.tolist()
    labels = tuple(names[i] if 0 <= i < len(names) else "" for i in image.class_ids[positions])
    return RemovedRegions(tuple(zip(x1, y1, x2, y2, strict=True)), labels, differences)
