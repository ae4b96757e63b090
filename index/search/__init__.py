"""Open versions of an index and query them.

In: query vectors. Out: ids, scores and metadata. It is independent of models and of how a version is built.
"""

from index.search.hot_reload import HotReloader
from index.search.index import Index, IndexHit
from index.search.near_copies import find_distinct
from index.search.probabilities import compute_probabilities

__all__ = [
    "HotReloader",
    "Index",
    "IndexHit",
    "compute_probabilities",
    "find_distinct",
]
