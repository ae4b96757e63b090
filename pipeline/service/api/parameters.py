"""Parameters of the URL that several routes take, and the errors that the routes answer with."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query

from pipeline.search.query import Query as SearchQuery
from pipeline.search.query import SearchRequest
from pipeline.service.api.query_body import MAX_FILTER_CHARACTERS, MAX_K, MAX_OFFSET, MIN_PROBABILITY, UNIQUE, For
from pipeline.service.problems import MEDIA_TYPE

K = Annotated[int, Query(ge=1, le=MAX_K, description="Maximum number of hits.", examples=[3])]
Offset = Annotated[
    int, Query(ge=0, le=MAX_OFFSET, description="Number of best hits to leave out, to get the next ones.")
]
Where = Annotated[
    str,
    Query(
        max_length=MAX_FILTER_CHARACTERS,
        description="Filter over the metadata; see docs/reference/filters.md.",
        examples=["split = 'test' and width >= 640"],
    ),
]
Version = Annotated[
    str, Query(max_length=64, description="Version number or tag; empty for the published version.", examples=["1"])
]
MinProbability = Annotated[
    float | None,
    Query(ge=0, le=1, description=MIN_PROBABILITY),
]
Explain = Annotated[bool, Query(description="Whether hits come with the words and regions that match.")]
Unique = Annotated[bool, Query(description=UNIQUE)]
Target = Annotated[For, Query(alias="for", description="What is searched.")]


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search in the URL."""

    k: K = 10
    offset: Offset = 0
    where: Where = ""
    version: Version = ""
    min_probability: MinProbability = None
    explain: Explain = True
    unique: Unique = False

    def make_request(self, query: SearchQuery) -> SearchRequest:
        """Make the request of one query."""
        where = self.where.strip() or None
        return SearchRequest(query, self.k, self.offset, where, self.min_probability, self.explain, self.unique)


DESCRIPTIONS = {
    304: "The client has the content already.",
    400: "The host is not one of the service, the URL has too many parameters, or the filter takes too long.",
    401: "The request has no valid token.",
    403: "The request comes from a web page of another host.",
    404: "There is no such version or item.",
    408: "The body arrives too slowly.",
    413: "The body is too large.",
    416: "The file has no such part.",
    415: "The body is a form, compressed or of another type.",
    422: "A value is invalid; `errors` lists what and where.",
    503: "The service is busy, or the machine lacks memory or files. Try again later.",
    504: "The answer takes too long.",
}
BINARY = {"type": "string", "format": "binary"}
COMMON = (400, 401, 403, 422, 503, 504)
BODY = (408, 413, 415)


def make_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Make the description of errors that FastAPI puts into the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": DESCRIPTIONS[status], **({"content": content} if status >= 400 else {})}
        for status in sorted({*COMMON, *statuses})
    }
