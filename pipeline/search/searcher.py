"""`Searcher`: ranks the images of an index for a text, and its captions for a photo."""

from copy import copy
from pathlib import Path

import numpy as np

from index.metadata import Row
from index.search import Index, IndexHit
from pipeline.plans.plan import Plan
from pipeline.search.encode import QueryEncoder
from pipeline.search.hits import Hit, Region
from pipeline.search.stored_images import StoredImages
from pipeline.stages.origin import read_origin
from pipeline.workspace import Workspace

REGIONS_PER_HIT = 2


class Searcher:
    """A version of the index of a plan, with the model and extractors of its vectors.

    Args:
        plan: The plan.
        version: Version of the index; the published one if None.

    Raises:
        FileNotFoundError: No index is published, or the model or a store is missing.
        ValueError: The extractors of the plan are not those of the index.
    """

    def __init__(self, plan: Plan, version: int | None = None) -> None:
        workspace = Workspace(plan.workspace)
        self.plan, self.index = plan, Index.open(workspace.index, version)
        self._origin = read_origin(self.index)
        self._encoder = QueryEncoder(plan, self._origin)
        self._stored_images = StoredImages(plan, self._origin.regions)
        self._image_root = plan.dataset.images if plan.dataset else workspace.dataset / "images"

    def with_version(self, version: int | None = None) -> "Searcher":
        """Open another version of the index, the published one if None, without loading the same model again."""
        index = Index.open(self.index.root, version)
        if read_origin(index) != self._origin:
            index.close()
            return Searcher(self.plan, version)
        other = copy(self)
        other.index = index
        other._stored_images = StoredImages(self.plan, self._origin.regions)  # the store may have new items
        return other

    def close(self) -> None:
        """Close the index."""
        self.index.close()

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
        return [self._make_image_hit(found, query) for found in self.index.search(query, k, "image", where=where)[0]]

    def search_image(self, path: Path, k: int = 10, where: str | None = None) -> list[Hit]:
        """Search captions with a photo.

        Args:
            path: Image file.
            k: Maximum number of hits.
            where: Filter over the metadata of the captions; no filter if None.

        Returns:
            The best captions, best first.

        Raises:
            ValueError: The photo or the filter is invalid, or no regions of the photo are known (see `embed_image`).
        """
        found = self.index.search(self.embed_image(path), k, "caption", where=where)[0]
        return [Hit(hit.id, hit.score, self._get_path(hit.metadata), (hit.metadata.text or "",)) for hit in found]

    def embed_text(self, text: str) -> np.ndarray:
        """Embed a text query. Returns a vector (1, e), float32 of unit length."""
        return self._encoder.embed_text(text)

    def knows(self, text: str) -> bool:
        """Return whether the model knows a part of a query; `search_text` raises otherwise."""
        return self._encoder.knows(text)

    def describe_unknown(self, text: str) -> str:
        """Return a note about the words of a query that the model does not know; empty if it knows all of them."""
        return self._encoder.describe_unknown(text)

    def embed_image(self, path: Path) -> np.ndarray:
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
            return self._encoder.embed_photo(path)
        image_id = self._stored_images.find(path)
        if image_id is None:
            source = plan.regions_store or "a region file"
            raise ValueError(
                f"{path} is not an image of this plan. The plan takes its regions from {source}, so it has no detector "
                "for new photos. Choose an image of the dataset, or a plan with a detector."
            )
        return self._encoder.embed_regions([self._stored_images.read_regions(image_id)])

    def _make_image_hit(self, found: IndexHit, query: np.ndarray) -> Hit:
        captions = tuple(row.text or "" for row in self.index.get_image_metadata("caption", found.id))
        regions = self._find_matching_regions(found.id, query)
        return Hit(found.id, found.score, self._get_path(found.metadata), captions, regions)

    def _get_path(self, row: Row) -> Path:
        return self._image_root / (row.path or "")

    def _find_matching_regions(self, image_id: str, query: np.ndarray) -> tuple[Region, ...]:
        """Find the regions of an image whose vectors, embedded one by one, are nearest to the query (1, e)."""
        if image_id not in self._stored_images:  # the image became unreadable after it was indexed
            return ()
        store = self._stored_images.store
        features, boxes, size, _ = self._stored_images.read_regions(image_id)
        rows = [slice(i, i + 1) for i in range(len(boxes))]
        vectors = self._encoder.embed_regions([(features[row], boxes[row], size, np.ones(1)) for row in rows])
        scores = vectors @ query[0]  # (r,)
        class_ids, names = store.read("class_ids", [image_id]), store.recipe.get("classes", [])
        # A class id below 0 marks the whole image, or regions of an imported format without classes.
        has_classes = (class_ids >= 0).any()
        order = [i for i in np.argsort(-scores, kind="stable") if class_ids[i] >= 0 or not has_classes]
        labels = [names[class_id] if 0 <= class_id < len(names) else "" for class_id in class_ids]
        return tuple(_make_region(boxes[i], labels[i], scores[i]) for i in order[:REGIONS_PER_HIT])


def _make_region(box: np.ndarray, label: str, score: float) -> Region:
    x1, y1, x2, y2 = map(float, box)
    return Region((x1, y1, x2, y2), label, float(score))
