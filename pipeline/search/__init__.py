"""Search of a published index: queries go in, hits come out. Knows nothing of HTTP and of pages."""

from pipeline.search.hits import Answer, Hit, Region
from pipeline.search.query import (
    ImagePart,
    PhotoPart,
    Query,
    QueryPart,
    TextPart,
    VectorPart,
    make_photo_query,
    make_text_query,
)
from pipeline.search.searcher import Searcher, open_searchers

__all__ = [
    "Answer",
    "Hit",
    "ImagePart",
    "PhotoPart",
    "Query",
    "QueryPart",
    "Region",
    "Searcher",
    "TextPart",
    "VectorPart",
    "make_photo_query",
    "make_text_query",
    "open_searchers",
]
