"""Search of a published index: a text or a photo goes in, hits come out. Knows nothing of HTTP and of pages."""

from pipeline.search.hits import Hit, Region
from pipeline.search.searcher import Searcher, open_searchers

__all__ = [
    "Hit",
    "Region",
    "Searcher",
    "open_searchers",
]
