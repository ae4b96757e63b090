"""Words of missed captions: which regions of an image they match, from the stored row vectors."""

from dataclasses import replace

from data.datasets import Caption
from data.store import Store, read_intact_row_vectors
from pipeline.search.hits import Hit
from pipeline.search.model_encoder import read_tokenizer
from pipeline.search.stored_images import read_boxes
from pipeline.search.word_matches import choose_regions, match_words
from pipeline.stages.results import Vectors
from tern.query import QueryRecord, read_query_record


class MissWords:
    """Matches the words of captions with the regions of images.

    Args:
        vectors: Vector stores of a model with row vectors.
        record: Record of the query side of the model.
    """

    def __init__(self, vectors: Vectors, record: QueryRecord) -> None:
        assert vectors.image_rows is not None
        assert vectors.caption_rows is not None
        self._images, self._captions = Store(vectors.image_rows), Store(vectors.caption_rows)
        self._regions = Store(vectors.features.regions)
        self._tokenizer = read_tokenizer(vectors.model, record)

    def add_to(self, hit: Hit, query: Caption, image_id: str) -> Hit:
        """Return the hit of an image with the words of a caption and the regions that they match.

        Args:
            hit: The hit.
            query: The caption.
            image_id: Id of the image as the stores have it.
        """
        if query.id not in self._captions or image_id not in self._images or image_id not in self._regions:
            return hit
        query_rows = read_intact_row_vectors(self._captions, [query.id])
        (stored,) = read_boxes(self._regions, [image_id])
        image_rows = read_intact_row_vectors(self._images, [image_id])
        words = match_words(self._tokenizer.find_words(query.text), query_rows, image_rows, stored)
        return replace(hit, words=words, regions=choose_regions(words), size=stored.size)


def open_miss_words(vectors: Vectors) -> MissWords | None:
    """Open what the words of misses need; None for a model without row vectors or without a query side."""
    record = None if vectors.image_rows is None or vectors.caption_rows is None else read_query_record(vectors.model)
    return None if record is None else MissWords(vectors, record)
