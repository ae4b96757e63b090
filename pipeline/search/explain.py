"""Regions of hits that match a query: those whose removal from the image lowers its score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.search import IndexHit
from pipeline.search.encode import ImageRegions, QueryEncoder
from pipeline.search.hits import Region
from pipeline.search.stored_images import StoredImages

REGIONS_PER_HIT = 2
MAX_CANDIDATES = 8  # regions per image that are removed in turn: those that the detector is most certain of
MIN_GAIN = 0.005  # of the score; less than this shows nothing on an image


@dataclass(frozen=True)
class _Candidates:
    """The regions of a hit that may explain it."""

    image: ImageRegions
    positions: tuple[int, ...]
    labels: tuple[str, ...]

    def make_variants(self) -> list[ImageRegions]:
        """Return the image, and the image without each candidate."""
        features, boxes, size, scores = self.image
        variants = [self.image]
        for position in self.positions:
            rest = np.delete(np.arange(len(boxes)), position)
            variants.append((features[rest], boxes[rest], size, scores[rest]))
        return variants

    def select(self, scores: np.ndarray) -> tuple[Region, ...]:
        """Select the regions with the largest gains, from the scores (1 + c,) of the variants."""
        gains = scores[0] - scores[1:]
        order = [i for i in np.argsort(-gains, kind="stable")[:REGIONS_PER_HIT] if gains[i] >= MIN_GAIN]
        boxes = self.image[1][list(self.positions)].tolist()
        return tuple(Region(tuple(boxes[i]), self.labels[i], float(gains[i])) for i in order)


def find_matching_regions(
    hits: Sequence[IndexHit], query: np.ndarray, stored_images: StoredImages, encoder: QueryEncoder
) -> list[tuple[Region, ...]]:
    """Find the regions of each hit that raise its score.

    The gain of a region is the score of the image minus the score that the image has without the region. The cells of a
    grid explain nothing: their borders say nothing about the image.

    Args:
        hits: Images.
        query: (e,) float32, unit length.
        stored_images: Regions of the images.
        encoder: Model that embeds regions.

    Returns:
        Per hit at most `REGIONS_PER_HIT` regions, the largest gain first.
    """
    if stored_images.store.recipe.get("extractor") == "grid":
        return [()] * len(hits)
    # An image that became unreadable after it was indexed is not in the store.
    candidates = {hit.id: _find_candidates(stored_images, hit.id) for hit in hits if hit.id in stored_images}
    variants = [candidate.make_variants() for candidate in candidates.values()]
    if not variants:
        return [()] * len(hits)
    scores = encoder.embed_regions([variant for group in variants for variant in group]) @ query
    groups = np.split(scores, np.cumsum([len(group) for group in variants])[:-1])
    regions = {name: one.select(part) for (name, one), part in zip(candidates.items(), groups, strict=True)}
    return [regions.get(hit.id, ()) for hit in hits]


def _find_candidates(stored_images: StoredImages, image_id: str) -> _Candidates:
    """Find the regions of an image that may explain a hit; the whole-image region is none of them."""
    store, image = stored_images.store, stored_images.read_regions(image_id)
    class_ids, names = store.read("class_ids", [image_id]), store.recipe.get("classes", [])
    # A class id below 0 marks the whole image, or regions of an imported format without classes.
    has_classes = (class_ids >= 0).any()
    order = [int(i) for i in np.argsort(-image[3], kind="stable") if class_ids[i] >= 0 or not has_classes]
    positions = tuple(order[:MAX_CANDIDATES]) if len(class_ids) > 1 else ()  # an image without regions has no vector
    labels = tuple(names[i] if 0 <= i < len(names) else "" for i in class_ids[list(positions)])
    return _Candidates(image, positions, labels)
