"""Search of a published index: queries go in, hits come out. Knows nothing of HTTP and of pages."""

from pipeline.search.contents import IndexContents, describe_contents
from pipeline.search.examples import Example, find_examples, find_image_of_each
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
    "Example",
    "Hit",
    "ImagePart",
    "IndexContents",
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
    "describe_contents",
    "find_examples",
    "find_image_of_each",
    "make_photo_query",
    "make_text_query",
    "open_index_searcher",
    "open_index_searchers",
    "open_searchers",
]
