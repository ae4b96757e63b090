"""`HitExplainer`: why images match, by the words of a query, or by regions that are removed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.alignment import Embeddings
from index.search import Index, IndexHit
from pipeline.search.encode import QueryEncoder
from pipeline.search.explain import RegionRemover
from pipeline.search.hits import Region, WordMatch
from pipeline.search.query import Query, SearchRequest, TextPart
from pipeline.search.stored_images import StoredImages
from pipeline.search.word_matches import choose_regions, match_words


@dataclass(frozen=True)
class Explanation:
    """Why an image matches a query."""

    regions: tuple[Region, ...] = ()
    words: tuple[WordMatch, ...] = ()


class HitExplainer:
    """Explains the hits of one version of an index.

    Args:
        index: The open version.
        encoder: Model of its vectors.
        stored_images: Regions of its images; None if they are not there: then nothing has a box.
    """

    def __init__(self, index: Index, encoder: QueryEncoder, stored_images: StoredImages | None) -> None:
        self._index, self._encoder, self._stored_images = index, encoder, stored_images
        self._remover = None if stored_images is None else RegionRemover(stored_images, encoder)

    def explain(
        self,
        requests: Sequence[SearchRequest],
        embeddings: Sequence[Embeddings | None],
        hits: Sequence[Sequence[IndexHit]],
    ) -> list[dict[str, Explanation]]:
        """Explain the hits of requests that ask for it and search images.

        Args:
            requests: The requests.
            embeddings: Per request what the model computed of its query; None without hits.
            hits: Per request its hits.

        Returns:
            Per request the explanations by the id of the image; images without any may be missing.
        """
        results: list[dict[str, Explanation]] = [{} for _ in requests]
        others = []
        for number, (request, embedding) in enumerate(zip(requests, embeddings, strict=True)):
            if embedding is None or not hits[number] or not request.explain or request.query.target != "image":
                continue
            text = _get_single_text(request.query)
            if text is not None and embedding.rows is not None and self._has_rows:
                results[number] = self._match_words(text, embedding, hits[number])
            else:
                others.append(number)
        if others and self._remover is not None:  # one pass for the hits of all requests
            removed = self._remover.remove([hit.id for number in others for hit in hits[number]])
            for number in others:
                query = embeddings[number]
                assert query is not None
                results[number] = {
                    hit.id: Explanation(removed[hit.id].find_matching(query.vectors[0]))
                    for hit in hits[number]
                    if hit.id in removed
                }
        return results

    @property
    def _has_rows(self) -> bool:
        return self._index.collection("image").row_vectors is not None

    def _match_words(self, text: str, query: Embeddings, hits: Sequence[IndexHit]) -> dict[str, Explanation]:
        row_vectors = self._index.collection("image").row_vectors
        assert row_vectors is not None
        assert query.rows is not None
        rows = row_vectors.get(np.array([hit.metadata.key for hit in hits], np.int64))
        boxes = {} if self._stored_images is None else self._stored_images.read_boxes([hit.id for hit in hits])
        words, explanations = self._encoder.find_words(text), {}
        for number, hit in enumerate(hits):
            matches = match_words(words, query.rows, rows.select([number]), boxes.get(hit.id))
            explanations[hit.id] = Explanation(choose_regions(matches), matches)
        return explanations


def _get_single_text(query: Query) -> str | None:
    """Return the text of a query that is one text; None for another query."""
    part = query.parts[0]
    return part.text if len(query.parts) == 1 and isinstance(part, TextPart) else None
