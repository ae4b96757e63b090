"""The second stage of a search: short vectors of regions and tokens, and the scores that their best pairs give.

Arrays in, scores out. It knows no network, no store and no index.
"""

from data.alignment.row_vectors import CODE_SCALE, RowVectors, concatenate_rows, encode_rows
from data.alignment.scores import RowMatch, combine_scores, compute_alignment_scores, find_row_matches

__all__ = [
    "CODE_SCALE",
    "RowMatch",
    "RowVectors",
    "combine_scores",
    "compute_alignment_scores",
    "concatenate_rows",
    "encode_rows",
    "find_row_matches",
]
