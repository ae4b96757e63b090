"""`Searcher`: ranks the images of an index for a text, and its captions for a photo."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from index.metadata import Row
from index.search import HotReloader, Index, IndexHit
from pipeline.plans.plan import Plan
from pipeline.search.encode import EncoderPool, QueryEncoder
from pipeline.search.hits import Hit, Region
from pipeline.search.stored_images import StoredImages
from pipeline.stages.origin import read_origin
from pipeline.workspace import Workspace, check_has_captions

REGIONS_PER_HIT = 2
HITS_PER_PASS = 16  # whose regions are embedded in one forward pass


class Searcher:
    """A version of the index of a plan, with the model and extractors of its vectors.

    Args:
        plan: The plan.
        version: Version of the index; the published one if None.
        pool: Loaded models and extractors of the plan, to share with other versions; None loads them for this one.

    Raises:
        FileNotFoundError: No index is published, or the model or a store is missing.
        ValueError: The extractors of the plan are not those of the index.
    """

    def __init__(self, plan: Plan, version: int | None = None, pool: EncoderPool | None = None) -> None:
        workspace = Workspace(plan.workspace)
        self.plan, self.index = plan, Index.open(workspace.index, version)
        try:
            origin = read_origin(self.index)
            self._pool = pool or EncoderPool(plan)
            self._encoder = QueryEncoder(plan, origin, self._pool)
            self._stored_images = StoredImages(plan, origin.regions)
        except BaseException:  # nothing else would release the version
            self.index.close()
            raise
        self._image_root = plan.dataset.images if plan.dataset else workspace.dataset / "images"

    def with_version(self, version: int | None = None) -> "Searcher":
        """Open another version of the index, the published one if None, with the models that are loaded already."""
        return Searcher(self.plan, version, self._pool)

    def load_text_extractor(self) -> None:
        """Load the text extractor now instead of at the first query."""
        self._encoder.load_text_extractor()

    def close(self) -> None:
        """Close the index and the region store."""
        self.index.close()
        self._stored_images.store.close()

    def search_text(self, text: str, k: int = 10, where: str | None = None) -> list[Hit]:
        """Search images with a text.

        Args:
            text: The query, 1 to 2,000 characters.
            k: Maximum number of hits.
            where: Filter over the metadata of the images; no filter if None.

        Returns:
            The best images, best first, with all their captions and the regions that match the query.

        Raises:
            ValueError: The text or the filter is invalid.
        """
        query = self.embed_text(text)
        found = self.index.search(query, k, "image", where=where)[0]
        groups = (found[start : start + HITS_PER_PASS] for start in range(0, len(found), HITS_PER_PASS))
        return [hit for group in groups for hit in self._make_image_hits(group, query)]

    def search_image(self, photo: Path | bytes, k: int = 10, where: str | None = None) -> list[Hit]:
        """Search captions with a photo.

        Args:
            photo: Image file, or its content.
            k: Maximum number of hits.
            where: Filter over the metadata of the captions; no filter if None.

        Returns:
            The best captions, best first.

        Raises:
            ValueError: The photo or the filter is invalid, the index has no captions, or no regions of the photo are
                known (see `embed_image`).
        """
        check_has_captions(self.index.manifest)
        found = self.index.search(self.embed_image(photo), k, "caption", where=where)[0]
        return [Hit(hit.id, hit.score, self._get_path(hit.metadata), (hit.metadata.text or "",)) for hit in found]

    def find_image(self, image_id: str) -> Path | None:
        """Find the file of an image of the index, by the id of the image. Returns None if there is no such image."""
        row = self.index.get_metadata([image_id]).get(image_id)
        return None if row is None else self._get_path(row)

    def embed_text(self, text: str) -> np.ndarray:
        """Embed a text query. Returns a vector (1, e), float32 of unit length."""
        return self._encoder.embed_text(text)

    def knows(self, text: str) -> bool:
        """Return whether the model knows a part of a query; `search_text` raises otherwise."""
        return self._encoder.knows(text)

    def describe_unknown(self, text: str) -> str:
        """Return a note about the words of a query that the model does not know; empty if it knows all of them."""
        return self._encoder.describe_unknown(text)

    def embed_image(self, photo: Path | bytes) -> np.ndarray:
        """Embed a photo.

        If the plan takes its regions from a file or an external store, there is no detector for new photos. Then only
        photos with the bytes of a stored image can be embedded.

        Returns:
            Vector (1, e), float32 of unit length.

        Raises:
            ValueError: The file is not a readable image, or there is no detector and the photo is not stored.
        """
        plan = self.plan
        if plan.regions_file is None and plan.regions_store is None:
            return self._encoder.embed_photo(photo)
        image_id = self._stored_images.find(photo)
        if image_id is None:
            source = plan.regions_store or "a region file"
            name = photo if isinstance(photo, Path) else "the photo"
            raise ValueError(
                f"{name} is not an image of this plan. The plan takes its regions from {source}, so it has no detector "
                "for new photos. Choose an image of the dataset, or a plan with a detector."
            )
        return self._encoder.embed_regions([self._stored_images.read_regions(image_id)])

    def _make_image_hits(self, group: Sequence[IndexHit], query: np.ndarray) -> Iterator[Hit]:
        for found, regions in zip(group, self._find_matching_regions(group, query), strict=True):
            captions = tuple(row.text or "" for row in self._find_captions(found.id))
            row = found.metadata
            size = (row.width, row.height) if row.width and row.height else None
            yield Hit(found.id, found.score, self._get_path(row), captions, regions, size)

    def _find_captions(self, image_id: str) -> list[Row]:
        return self.index.get_image_metadata("caption", image_id) if "caption" in self.index.kinds else []

    def _get_path(self, row: Row) -> Path:
        return self._image_root / (row.path or "")

    def _find_matching_regions(self, group: Sequence[IndexHit], query: np.ndarray) -> Iterator[tuple[Region, ...]]:
        """Find the regions of each hit whose vectors, embedded one by one, are nearest to the query (1, e).

        The cells of a grid are none: their borders say nothing about the image.
        """
        if self._stored_images.store.recipe.get("extractor") == "grid":
            yield from ((),) * len(group)
            return
        # An image that became unreadable after it was indexed is not in the store.
        images = {hit.id: self._stored_images.read_regions(hit.id) for hit in group if hit.id in self._stored_images}
        vectors = iter(self._encoder.embed_single_regions(list(images.values())))
        for hit in group:
            if hit.id in images:
                yield self._select_regions(hit.id, images[hit.id][1], next(vectors) @ query[0])
            else:
                yield ()

    def _select_regions(self, image_id: str, boxes: np.ndarray, scores: np.ndarray) -> tuple[Region, ...]:
        """Select the regions (r) of an image with the best scores; the whole-image region is none of them."""
        store = self._stored_images.store
        class_ids, names = store.read("class_ids", [image_id]), store.recipe.get("classes", [])
        # A class id below 0 marks the whole image, or regions of an imported format without classes.
        has_classes = (class_ids >= 0).any()
        order = [i for i in np.argsort(-scores, kind="stable") if class_ids[i] >= 0 or not has_classes]
        labels = [names[class_id] if 0 <= class_id < len(names) else "" for class_id in class_ids]
        return tuple(_make_region(boxes[i], labels[i], scores[i]) for i in order[:REGIONS_PER_HIT])


def _make_region(box: np.ndarray, label: str, score: float) -> Region:
    x1, y1, x2, y2 = map(float, box)
    return Region((x1, y1, x2, y2), label, float(score))


def open_searchers(plan: Plan) -> HotReloader[Searcher]:
    """Open the published version of the index of a plan, and follow what is published later.

    All versions share the models and extractors. The first ones are loaded now, so that no query waits for them.

    Raises:
        FileNotFoundError: No index is published, or the model or a store is missing.
        ValueError: The extractors of the plan are not those of the index.
    """
    pool = EncoderPool(plan)
    searchers = HotReloader(Workspace(plan.workspace).index, lambda version: Searcher(plan, version, pool))
    with searchers.borrow() as searcher:
        searcher.load_text_extractor()
    return searchers
