"""The oracle of a reranked text search over few images: all of them in the order of their combined scores."""

import numpy as np

from data.alignment import combine_scores, compute_alignment_scores
from data.store.intact import read_intact_row_vectors
from data.store.store import Store
from pipeline.search import Searcher
from pipeline.stages.results import VectorStores


def score_images(searcher: Searcher, stores: VectorStores, text: str) -> dict[str, float]:
    """Compute the combined score of every image with a text, best first; there are fewer images than are reranked."""
    vectors, rows = Store(stores.images), Store(stores.image_rows)
    query = searcher._encoder.embed_texts([text])
    alignments = compute_alignment_scores(query.rows, read_intact_row_vectors(rows, vectors.ids))
    cosines = vectors.read("features", vectors.ids).astype("f4") @ query.vectors[0]
    scores = combine_scores(cosines, alignments, stores.alignment_weight)
    return {vectors.ids[position]: float(scores[position]) for position in np.argsort(-scores)}
