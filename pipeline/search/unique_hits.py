"""Hits of which none is a near copy of a better one; `IndexSearcher` finds them for a request with `unique`."""

from collections.abc import Sequence

import numpy as np

from data.alignment import Embeddings
from index.search import Index, IndexHit, find_distinct
from pipeline.search.query import SearchRequest

MAX_UNIQUE_HITS = 2_000  # up to the last hit of a page
MAX_COMPARED_HITS = 4_096  # of a query: the time to compare hits grows with the square of their number


def check_unique(request: SearchRequest) -> None:
    """Check that the near copies of a request can be left out.

    Raises:
        ValueError: Captions are searched, or the page is too deep.
    """
    if request.query.target == "caption":
        raise ValueError("`unique` leaves out near copies of images, but captions are searched. Search without it.")
    if request.offset + request.k > MAX_UNIQUE_HITS:
        raise ValueError(
            f"offset and k are {request.offset:,} and {request.k:,}. With `unique`, pass at most {MAX_UNIQUE_HITS:,} "
            "for their sum."
        )


def search_unique(index: Index, queries: Embeddings, num_hits: int, where: str | None) -> list[list[IndexHit]]:
    """Search images deep enough that `num_hits` hits per query are left without near copies.

    Returns:
        Per query its hits, best first, with the near copies. There are fewer without them if the index has no more, or
        if they are not among the best `MAX_COMPARED_HITS`.
    """
    depth = num_hits
    while True:
        found = index.search(queries.vectors, depth, where=where, query_rows=queries.rows)
        if depth >= MAX_COMPARED_HITS or all(
            len(hits) < depth or len(find_unique_ids(index, hits, num_hits)) == num_hits for hits in found
        ):
            return found
        depth = min(4 * depth, MAX_COMPARED_HITS)


def find_unique_ids(index: Index, hits: Sequence[IndexHit], limit: int) -> set[str]:
    """Return the ids of the first `limit` images that are not near copies of a better hit."""
    keys = np.array([hit.metadata.key for hit in hits], np.int64)
    return {hits[i].id for i in find_distinct(index.collection("image").vectors.get(keys), limit)}
