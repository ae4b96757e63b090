"""The second stage of a search: short vectors of regions and tokens, and the scores that their best pairs give.

Arrays in, scores out. It knows no network, no store and no index.
"""

from data.alignment.row_vectors import (
    CODE_DTYPE,
    CODE_SCALE,
    WEIGHT_DTYPE,
    Embeddings,
    RowVectors,
    concatenate_embeddings,
    concatenate_rows,
    encode_rows,
    encode_vectors,
    expand_ranges,
)
from data.alignment.scores import PairParts, combine_scores, compute_alignment_scores, divide_score

__all__ = [
    "CODE_DTYPE",
    "CODE_SCALE",
    "WEIGHT_DTYPE",
    "Embeddings",
    "PairParts",
    "RowVectors",
    "combine_scores",
    "compute_alignment_scores",
    "concatenate_embeddings",
    "concatenate_rows",
    "divide_score",
    "encode_rows",
    "encode_vectors",
    "expand_ranges",
]
