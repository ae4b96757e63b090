"""Search of a published index: queries go in, hits come out. Knows nothing of HTTP and of pages."""

from pipeline.search.hits import Answer, Hit, Region, WordMatch
from pipeline.search.index_searcher import IndexSearcher
from pipeline.search.query import (
    ImagePart,
    PhotoPart,
    Query,
    QueryPart,
    SearchRequest,
    TextPart,
    VectorPart,
    make_photo_query,
    make_text_query,
)
from pipeline.search.searcher import Searcher, open_searchers
from pipeline.search.without_plan import open_index_searcher, open_index_searchers

__all__ = [
    "Answer",
    "Hit",
    "ImagePart",
    "IndexSearcher",
    "PhotoPart",
    "Query",
    "QueryPart",
    "Region",
    "SearchRequest",
    "Searcher",
    "TextPart",
    "VectorPart",
    "WordMatch",
    "make_photo_query",
    "make_text_query",
    "open_index_searcher",
    "open_index_searchers",
    "open_searchers",
]
