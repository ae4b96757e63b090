"""`IndexSearcher`: answers queries from one open version of an index."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.alignment import Embeddings, concatenate_embeddings
from data.io import parse_columns
from index.metadata import Row
from index.search import Index, IndexHit
from pipeline.plans.plan import Plan
from pipeline.search.embed_queries import QueryEmbedder
from pipeline.search.encode import QueryEncoder
from pipeline.search.explainer import Explanation, HitExplainer
from pipeline.search.hits import Answer, Hit
from pipeline.search.image_files import find_image_file
from pipeline.search.query import (
    MAX_QUERIES,
    ImagePart,
    Photo,
    Query,
    SearchRequest,
    make_photo_query,
    make_text_query,
)
from pipeline.search.stored_images import StoredImages
from pipeline.search.unique_hits import check_unique, find_unique_ids, search_unique
from pipeline.search.weak_hits import compute_hit_probabilities, find_calibration, set_weak_hits_apart
from pipeline.workspace import check_has_captions

FoundHits = list[tuple[IndexHit, float | None]]
"""Hits with their probabilities."""
OnStage = Callable[[str, float], None]


class IndexSearcher:
    """An open version of an index, with the model of its vectors.

    Attributes:
        plan: Plan of the index; None if it is searched without one.
        stored_images: Regions of its images; None if they are not there.
        accepts_photos: Whether photos that are not in the index can be searched with: there is an extractor for them.

    Args:
        index: The version; `close` closes it.
        encoder: Model and extractors of its vectors.
        stored_images: Regions of its images; None if they are not there.
        image_root: Folder that the paths in its metadata are relative to; None if it is not known.
        region_source: See `QueryEmbedder`.
    """

    plan: Plan | None = None

    def __init__(
        self,
        index: Index,
        encoder: QueryEncoder,
        stored_images: StoredImages | None,
        image_root: Path | None,
        region_source: str | None = None,
    ) -> None:
        self.index, self._encoder, self.stored_images = index, encoder, stored_images
        self.accepts_photos = region_source is None and encoder.has_region_extractor
        self._image_root = image_root
        self._explainer = HitExplainer(index, encoder, stored_images)
        self._embedder = QueryEmbedder(index, encoder, stored_images, image_root, region_source)

    @property
    def note(self) -> str:
        """What a person should know of all answers; empty if there is nothing."""
        return "" if self.stored_images else "The region features are not here, so hits come without regions."

    def load_models(self) -> None:
        """Load now what the first text query needs."""
        self._encoder.load()

    def close(self) -> None:
        """Close the index and the region store."""
        self.index.close()
        if self.stored_images is not None:
            self.stored_images.close()

    def search(
        self,
        queries: Sequence[Query],
        k: int = 10,
        offset: int = 0,
        where: str | None = None,
        min_probability: float | None = None,
        unique: bool = False,
    ) -> list[Answer]:
        """Search with several queries, whose texts are embedded in one pass.

        Args:
            queries: 1 to `MAX_QUERIES` queries.
            k: Maximum number of hits per query.
            offset: Number of best hits to leave out, to get the next ones of an earlier search.
            where: Filter over the metadata of what is searched; no filter if None.
            min_probability: Smallest probability of a hit that is not weak, 0 to 1; that of the index if None.
            unique: Leave out images that are near copies of a better hit.

        Returns:
            Per query its hits, best first, and apart from them those that are weak. Images come with all their captions
            and with the words and regions that match.

        Raises:
            ValueError: A query or the filter is invalid, or the index lacks what a query searches.
        """
        answers = []
        requests = [SearchRequest(query, k, offset, where, min_probability, unique=unique) for query in queries]
        for answer in self.answer(requests):
            if isinstance(answer, ValueError):
                raise answer
            answers.append(answer)
        return answers

    def answer(
        self, requests: Sequence[SearchRequest], on_stage: OnStage = lambda stage, seconds: None
    ) -> list[Answer | ValueError]:
        """Answer several requests together: one pass over their texts, and one over the regions of their hits that are
        explained by removal.

        Args:
            requests: 1 to `MAX_QUERIES` requests.
            on_stage: Called with the name and the seconds of each stage: `embed`, `search` and `explain`.

        Returns:
            Per request its answer, or what is wrong with it.

        Raises:
            ValueError: There are no requests or too many.
        """
        if not 1 <= len(requests) <= MAX_QUERIES:
            raise ValueError(f"{len(requests):,} queries were passed. Pass 1 to {MAX_QUERIES} at a time.")
        start = time.perf_counter()
        vectors = self._embed(requests)
        embedded = time.perf_counter()
        found = self._find(requests, vectors)
        searched = time.perf_counter()
        explanations = self._explainer.explain(
            requests,
            [None if isinstance(vector, ValueError) else vector for vector in vectors],
            [[] if isinstance(hits, ValueError) else [hit for hit, _ in hits] for hits in found],
        )
        on_stage("embed", embedded - start)
        on_stage("search", searched - embedded)
        on_stage("explain", time.perf_counter() - searched)
        return [self._make_answer(*parts) for parts in zip(requests, vectors, found, explanations, strict=True)]

    def _make_answer(
        self,
        request: SearchRequest,
        vector: Embeddings | ValueError,
        found: FoundHits | ValueError,
        explanations: dict[str, Explanation],
    ) -> Answer | ValueError:
        if isinstance(vector, ValueError):
            return vector
        if isinstance(found, ValueError):
            return found
        query = request.query
        if query.target == "caption":
            hits = [self._make_caption_hit(hit) for hit, _ in found]
        else:
            captions = self._find_captions([hit.id for hit, _ in found])
            hits = [
                self._make_image_hit(hit, captions.get(hit.id, ()), explanations.get(hit.id, Explanation()))
                for hit, _ in found
            ]
        hits = [replace(hit, probability=probability) for hit, (_, probability) in zip(hits, found, strict=True)]
        notes = [note for text in query.texts if (note := self.describe_unknown(text))]
        answer = Answer(tuple(hits), " ".join(notes))
        try:
            calibration = find_calibration(self.index, request, vector.rows is not None)
            return set_weak_hits_apart(answer, calibration, request.min_probability, request.offset)
        except ValueError as error:
            return error

    def _embed(self, requests: Sequence[SearchRequest]) -> list[Embeddings | ValueError]:
        """Embed the query of each request; requests that no query can satisfy are not embedded."""
        results: list[Embeddings | ValueError | None] = [self._find_problem(request) for request in requests]
        possible = [i for i, problem in enumerate(results) if problem is None]
        if possible:
            for i, vector in zip(possible, self._embedder.embed([requests[i].query for i in possible]), strict=True):
                results[i] = vector
        return [ValueError("not embedded") if result is None else result for result in results]

    def _find_problem(self, request: SearchRequest) -> ValueError | None:
        try:
            if request.query.target == "caption":
                check_has_captions(self.index.manifest)  # before a photo is read
            elif request.query.target not in self.index.kinds:
                raise ValueError("The index has no images. Search for captions (`--for captions`).")
            if request.k < 1 or request.offset < 0:
                raise ValueError(
                    f"k is {request.k} and offset is {request.offset}. Pass a k of at least 1, and an offset of at "
                    "least 0."
                )
            if request.unique:
                check_unique(request)
        except ValueError as error:
            return error
        return None

    def _find(
        self, requests: Sequence[SearchRequest], vectors: Sequence[Embeddings | ValueError]
    ) -> list[FoundHits | ValueError]:
        """Return the hits of each request; requests with equal options are searched together."""
        results: list[FoundHits | ValueError] = [[] for _ in requests]
        groups: dict[tuple[str, str | None, int, bool, bool], list[tuple[int, Embeddings, set[str]]]] = defaultdict(
            list
        )
        for i, (request, vector) in enumerate(zip(requests, vectors, strict=True)):
            if isinstance(vector, ValueError):
                results[i] = vector
                continue
            query = request.query
            left_out = self._embedder.find_own_images(query) if query.target == "image" else set()
            calibration = find_calibration(self.index, request, vector.rows is not None)
            depth = max(request.offset + request.k, calibration.depth if calibration else 0) + len(left_out)
            group = query.target, request.where, depth, request.unique, vector.rows is None
            groups[group].append((i, vector, left_out))
        for (target, where, depth, unique, _), members in groups.items():
            try:
                queries = concatenate_embeddings([vector for _, vector, _ in members])
                if unique:
                    found = search_unique(self.index, queries, depth, where)
                else:
                    found = self.index.search(queries.vectors, depth, target, where=where, query_rows=queries.rows)
            except ValueError as error:
                for i, *_ in members:
                    results[i] = error
                continue
            for (i, _, left_out), hits in zip(members, found, strict=True):
                request, kept = requests[i], [hit for hit in hits if hit.id not in left_out]
                calibration = find_calibration(self.index, request, queries.rows is not None)
                probabilities = compute_hit_probabilities(calibration, [hit.score for hit in kept])
                pairs = list(zip(kept, probabilities, strict=True))
                if unique:
                    unique_ids = find_unique_ids(self.index, hits, depth)
                    pairs = [pair for pair in pairs if pair[0].id in unique_ids]
                results[i] = pairs[request.offset : request.offset + request.k]
        return results

    def search_text(self, text: str, k: int = 10, where: str | None = None) -> Answer:
        """Search images with a text, weak hits included; see `search`."""
        return self.search([make_text_query(text)], k, where=where, min_probability=0)[0]

    def search_image(self, photo: Photo, k: int = 10, where: str | None = None) -> Answer:
        """Search captions with a photo, weak hits included; see `search`."""
        return self.search([make_photo_query(photo)], k, where=where, min_probability=0)[0]

    def search_similar(self, image_id: str, k: int = 10, where: str | None = None) -> Answer:
        """Search images that are similar to an image of the index; see `search`."""
        return self.search([Query((ImagePart(image_id),))], k, where=where)[0]

    def find_image(self, image_id: str) -> Path | None:
        """Find the file of an image of the index, by the id of the image.

        Returns:
            The path; None if there is no such image, if the folder of images is not known, or if the metadata name a
            file outside of it: those of an imported index come from somebody else.
        """
        row = self.index.get_metadata([image_id]).get(image_id)
        return None if row is None else find_image_file(self._image_root, row)

    def embed_text(self, text: str) -> np.ndarray:
        """Embed a text query. Returns a vector (1, e), float32 of unit length."""
        return self._encoder.embed_texts([self._encoder.check_text(text)]).vectors

    def embed_image(self, photo: Photo) -> np.ndarray:
        """Embed a photo as `QueryEmbedder.embed_photo` does. Returns a vector (1, e), float32 of unit length."""
        return self._embedder.embed_photo(photo).vectors

    def knows(self, text: str) -> bool:
        """Return whether the model knows a part of a query; `search_text` raises otherwise."""
        return self._encoder.knows(text)

    def describe_unknown(self, text: str) -> str:
        """Return a note about the words of a query that the model does not know; empty if it knows all of them."""
        return self._encoder.describe_unknown(text)

    def _make_image_hit(self, hit: IndexHit, captions: Sequence[Row], explanation: Explanation) -> Hit:
        row = hit.metadata
        size = (row.width, row.height) if row.width and row.height else None
        texts = tuple(caption.text or "" for caption in captions)
        path, regions = self._get_path(row), explanation.regions
        columns = parse_columns(row.columns)
        return Hit(hit.id, hit.score, path, texts, regions, size, hit.id, words=explanation.words, columns=columns)

    def _make_caption_hit(self, hit: IndexHit) -> Hit:
        row = hit.metadata
        path, columns = self._get_path(row), parse_columns(row.columns)
        return Hit(hit.id, hit.score, path, (row.text or "",), image_id=row.image_id or "", columns=columns)

    def _find_captions(self, image_ids: Sequence[str]) -> dict[str, list[Row]]:
        return self.index.get_metadata_by_image("caption", image_ids) if "caption" in self.index.kinds else {}

    def _get_path(self, row: Row) -> Path:
        return (self._image_root or Path()) / (row.path or "")
