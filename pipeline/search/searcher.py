"""`Searcher`: ranks the images or the captions of an index for queries of texts, photos, images and vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from index.metadata import Row
from index.search import HotReloader, Index, IndexHit
from index.versions import ScoreCalibration
from pipeline.plans.plan import Plan
from pipeline.search.embed_queries import QueryEmbedder
from pipeline.search.encode import EncoderPool, QueryEncoder
from pipeline.search.explain import find_matching_regions
from pipeline.search.hits import Answer, Hit
from pipeline.search.query import Photo, Query, make_photo_query, make_text_query
from pipeline.search.stored_images import StoredImages
from pipeline.search.weak_hits import compute_hit_probabilities, find_calibration, set_weak_hits_apart
from pipeline.stages.origin import read_origin
from pipeline.workspace import Workspace, check_has_captions

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
        self._embedder = QueryEmbedder(plan, self.index, self._encoder, self._stored_images, self._image_root)

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

    def search(
        self,
        queries: Sequence[Query],
        k: int = 10,
        offset: int = 0,
        where: str | None = None,
        min_probability: float | None = None,
    ) -> list[Answer]:
        """Search with several queries, whose texts are embedded in one pass.

        Args:
            queries: 1 to `MAX_QUERIES` queries.
            k: Maximum number of hits per query.
            offset: Number of best hits to leave out, to get the next ones of an earlier search.
            where: Filter over the metadata of what is searched; no filter if None.
            min_probability: Smallest probability of a hit that is not weak, 0 to 1; that of the index if None.

        Returns:
            Per query its hits, best first, and apart from them those that are weak. Images come with all their captions
            and with the regions that match.

        Raises:
            ValueError: A query or the filter is invalid, or the index lacks what a query searches.
        """
        if any(query.target == "caption" for query in queries):
            check_has_captions(self.index.manifest)  # before a photo is read
        vectors = self._embedder.embed(queries)
        answers = []
        for query, vector in zip(queries, vectors, strict=True):
            calibration = find_calibration(self.index, query)
            answer = self._find(query, vector, calibration, k, offset, where)
            answers.append(set_weak_hits_apart(answer, calibration, min_probability, offset))
        return answers

    def _find(
        self,
        query: Query,
        vector: np.ndarray,
        calibration: ScoreCalibration | None,
        k: int,
        offset: int,
        where: str | None,
    ) -> Answer:
        left_out = self._embedder.find_own_images(query) if query.target == "image" else set()
        depth = max(offset + k, calibration.depth if calibration else 0)
        found = self.index.search(vector[None], depth + len(left_out), query.target, where=where)[0]
        found = [hit for hit in found if hit.id not in left_out]
        probabilities = compute_hit_probabilities(calibration, [hit.score for hit in found])[offset : offset + k]
        found = found[offset : offset + k]
        hits = self._make_image_hits(found, vector) if query.target == "image" else self._make_caption_hits(found)
        notes = [note for text in query.texts if (note := self.describe_unknown(text))]
        pairs = zip(hits, probabilities, strict=True)
        return Answer(tuple(replace(hit, probability=value) for hit, value in pairs), " ".join(notes))

    def search_text(self, text: str, k: int = 10, where: str | None = None) -> list[Hit]:
        """Search images with a text, weak hits included; see `search`."""
        return list(self.search([make_text_query(text)], k, where=where, min_probability=0)[0].hits)

    def search_image(self, photo: Photo, k: int = 10, where: str | None = None) -> list[Hit]:
        """Search captions with a photo, weak hits included; see `search`."""
        return list(self.search([make_photo_query(photo)], k, where=where, min_probability=0)[0].hits)

    def find_image(self, image_id: str) -> Path | None:
        """Find the file of an image of the index, by the id of the image. Returns None if there is no such image."""
        row = self.index.get_metadata([image_id]).get(image_id)
        return None if row is None else self._get_path(row)

    def embed_text(self, text: str) -> np.ndarray:
        """Embed a text query. Returns a vector (1, e), float32 of unit length."""
        return self._encoder.embed_texts([text])

    def embed_image(self, photo: Photo) -> np.ndarray:
        """Embed a photo as `QueryEmbedder.embed_photo` does. Returns a vector (1, e), float32 of unit length."""
        return self._embedder.embed_photo(photo)[None]

    def knows(self, text: str) -> bool:
        """Return whether the model knows a part of a query; `search_text` raises otherwise."""
        return self._encoder.knows(text)

    def describe_unknown(self, text: str) -> str:
        """Return a note about the words of a query that the model does not know; empty if it knows all of them."""
        return self._encoder.describe_unknown(text)

    def _make_image_hits(self, found: Sequence[IndexHit], query: np.ndarray) -> Iterator[Hit]:
        for start in range(0, len(found), HITS_PER_PASS):
            group = found[start : start + HITS_PER_PASS]
            matches = find_matching_regions(group, query, self._stored_images, self._encoder)
            for hit, regions in zip(group, matches, strict=True):
                captions = tuple(row.text or "" for row in self._find_captions(hit.id))
                row = hit.metadata
                size = (row.width, row.height) if row.width and row.height else None
                yield Hit(hit.id, hit.score, self._get_path(row), captions, regions, size, hit.id)

    def _make_caption_hits(self, found: Sequence[IndexHit]) -> Iterator[Hit]:
        for hit in found:
            row = hit.metadata
            yield Hit(hit.id, hit.score, self._get_path(row), (row.text or "",), image_id=row.image_id or "")

    def _find_captions(self, image_id: str) -> list[Row]:
        return self.index.get_image_metadata("caption", image_id) if "caption" in self.index.kinds else []

    def _get_path(self, row: Row) -> Path:
        return self._image_root / (row.path or "")


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
