"""The second stage of a search: short vectors of regions and tokens, and the scores that their best pairs give.

Arrays in, scores out. It knows no network, no store and no index.
"""

from data.alignment.row_vectors import (
    CODE_DTYPE,
    CODE_SCALE,
    WEIGHT_DTYPE,
    RowVectors,
    concatenate_rows,
    encode_rows,
    encode_vectors,
    expand_ranges,
)
from data.alignment.scores import RowMatch, combine_scores, compute_alignment_scores, find_row_matches

__all__ = [
    "CODE_DTYPE",
    "CODE_SCALE",
    "WEIGHT_DTYPE",
    "RowMatch",
    "RowVectors",
    "combine_scores",
    "compute_alignment_scores",
    "concatenate_rows",
    "encode_rows",
    "encode_vectors",
    "expand_ranges",
    "find_row_matches",
]
