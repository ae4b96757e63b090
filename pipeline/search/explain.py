"""Regions of hits that match a query: those whose removal from the image lowers its score."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.search.encode import QueryEncoder
from pipeline.search.hits import REGIONS_PER_HIT, Region
from pipeline.search.stored_images import StoredImage, StoredImages
from tern.query import ImageRegions

MAX_CANDIDATES = 8  # regions per image that are removed in turn: those that the detector is most certain of
MAX_KEPT_BYTES = 64 << 20  # of one version: 7,000 images with 8 regions and 512 numbers
OVERHEAD_BYTES = 1_500  # of an image that is kept, without its numbers
IMAGES_PER_PASS = 32  # that are embedded without their regions; 9 copies of 36 rows of 2,048 numbers take 80 MB
MIN_GAIN = 0.005  # of the score; less than this shows nothing on an image


@dataclass(frozen=True)
class RemovedRegions:
    """What the vector of an image loses without each of its regions, for any query."""

    boxes: tuple[tuple[float, float, float, float], ...]
    """Box of each region that is removed, x1 y1 x2 y2 in pixels."""
    labels: tuple[str, ...]
    """Its class; an empty text if the regions have no classes."""
    differences: np.ndarray
    """(c, e) float16: the vector of the image minus its vector without the region."""

    def find_matching(self, query: np.ndarray) -> tuple[Region, ...]:
        """Find the regions that raise the score of a query (e,) most: at most `REGIONS_PER_HIT`, best first."""
        gains = self.differences.astype(np.float32) @ query
        order = [int(i) for i in np.argsort(-gains, kind="stable")[:REGIONS_PER_HIT] if gains[i] >= MIN_GAIN]
        return tuple(Region(self.boxes[i], self.labels[i], float(gains[i])) for i in order)


class RegionRemover:
    """Removes regions from the images of one index, and keeps the results for other queries. Safe to share.

    Args:
        stored_images: Regions of the images.
        encoder: Model that embeds regions.
    """

    def __init__(self, stored_images: StoredImages, encoder: QueryEncoder) -> None:
        self._stored_images, self._encoder = stored_images, encoder
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, RemovedRegions | None] = OrderedDict()
        self._num_bytes = 0

    def remove(self, image_ids: Collection[str]) -> dict[str, RemovedRegions]:
        """Return the regions of images as `remove_regions` does; only images that are not kept are embedded."""
        with self._lock:
            found = {name: self._kept[name] for name in image_ids if name in self._kept}
            for name in found:
                self._kept.move_to_end(name)
        missing = [name for name in dict.fromkeys(image_ids) if name not in found]
        for start in range(0, len(missing), IMAGES_PER_PASS):
            part = missing[start : start + IMAGES_PER_PASS]
            removed = remove_regions(part, self._stored_images, self._encoder)
            found |= {name: removed.get(name) for name in part}
            self._keep({name: found[name] for name in part})
        return {name: regions for name, regions in found.items() if regions is not None}

    def _keep(self, regions_by_id: Mapping[str, RemovedRegions | None]) -> None:
        with self._lock:
            for name, regions in regions_by_id.items():
                if name not in self._kept:
                    self._kept[name] = regions
                    self._num_bytes += _count_bytes(regions)
            while self._num_bytes > MAX_KEPT_BYTES:
                self._num_bytes -= _count_bytes(self._kept.popitem(last=False)[1])


def _count_bytes(regions: RemovedRegions | None) -> int:
    return OVERHEAD_BYTES + (0 if regions is None else regions.differences.nbytes)


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
    vectors = encoder.embed_regions([variant for group in variants for variant in group]).vectors
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
    return RemovedRegions(tuple(zip(x1, y1, x2, y2, strict=True)), labels, differences.astype(np.float16))
