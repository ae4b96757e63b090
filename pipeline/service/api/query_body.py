"""Body of `POST /api/v1/search`: queries of several parts, and the options of all of them."""

import base64
import binascii
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, FailFast, Field, Tag, ValidationError

from pipeline.search.query import (
    MAX_PARTS,
    MAX_QUERIES,
    Box,
    ImagePart,
    PhotoPart,
    Query,
    QueryPart,
    Target,
    TextPart,
    VectorPart,
)
from pipeline.service.api.answer_body import InvalidValue
from pipeline.service.limits import MAX_HITS, MAX_PHOTOS
from pipeline.service.problems import MAX_ERRORS, InvalidRequestError

MAX_K = 100
MAX_OFFSET = 1_000
MAX_DIM = 8_192
MAX_FILTER_CHARACTERS = 8_000
MIN_PROBABILITY = (
    "Hits with a smaller chance of being right come in `weak`; by default, the limit is that of the index."
)
UNIQUE = "Whether images are left out that are near copies of a better hit."
For = Literal["images", "captions"]
TARGETS: dict[str, Target] = {"images": "image", "captions": "caption"}
Weight = Annotated[
    float, Field(ge=-100, le=100, description="Factor of this part; below 0, the results avoid what it describes.")
]
BoxField = Annotated[Box | None, Field(description="Region x1, y1, x2, y2 in pixels; by default, the whole image.")]


class _Strict(BaseModel):
    # Unknown fields are refused by `_list_unknown_fields`: pydantic would make an error of 1 kB for each of them.
    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        allow_inf_nan=False,
        strict=True,
        json_schema_extra={"additionalProperties": False},
    )


class TextPartBody(_Strict):
    """A text in a query."""

    text: str = Field(max_length=2_000, description="A sentence or some words.", examples=["two dogs on a beach"])
    weight: Weight = 1.0

    def to_part(self) -> QueryPart:
        """Convert it to a part of a query."""
        return TextPart(self.text, self.weight)


class ImagePartBody(_Strict):
    """An image of the index in a query; it is left out of the results."""

    image_id: str = Field(max_length=1_000, description="Id of a hit.", examples=["scene-00110.jpg"])
    box: BoxField = None
    weight: Weight = 1.0

    def to_part(self) -> QueryPart:
        """Convert it to a part of a query."""
        return ImagePart(self.image_id, self.box, self.weight)


class PhotoPartBody(_Strict):
    """A photo in a query."""

    photo: str = Field(description="An image file in base64.", examples=["/9j/4AAQSkZJRgABAQ=="])
    box: BoxField = None
    weight: Weight = 1.0

    def to_part(self) -> QueryPart:
        """Convert it to a part of a query.

        Raises:
            ValueError: The photo is not base64.
        """
        try:
            content = base64.b64decode(self.photo, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("The photo is not base64. Encode the bytes of the image file.") from None
        return PhotoPart(content, self.box, self.weight)


class VectorPartBody(_Strict):
    """An embedding in a query."""

    vector: Annotated[list[float], FailFast()] = Field(
        min_length=1, max_length=MAX_DIM, description="A vector of the model of the index.", examples=[[0.1, -0.2, 0.3]]
    )
    weight: Weight = 1.0

    def to_part(self) -> QueryPart:
        """Convert it to a part of a query."""
        return VectorPart(np.array(self.vector, np.float32), self.weight)


def _find_kind(value: Any) -> str:
    """Return the field that says what a part is; a part of no kind is checked as a text."""
    for name in ("image_id", "photo", "vector"):
        if (name in value) if isinstance(value, dict) else hasattr(value, name):
            return name
    return "text"


PartBody = Annotated[
    Annotated[TextPartBody, Tag("text")]
    | Annotated[ImagePartBody, Tag("image_id")]
    | Annotated[PhotoPartBody, Tag("photo")]
    | Annotated[VectorPartBody, Tag("vector")],
    Discriminator(_find_kind),
]


class QueryBody(_Strict):
    """A weighted sum of texts, photos, images of the index and vectors."""

    parts: Annotated[list[PartBody], FailFast()] = Field(min_length=1, max_length=MAX_PARTS)
    target: For = Field("images", alias="for", description="What is searched.")

    def to_query(self) -> Query:
        """Convert it to a query; raises as `PhotoPartBody.to_part`."""
        return Query(tuple(part.to_part() for part in self.parts), TARGETS[self.target])


class SearchBody(_Strict):
    """Queries, and the options of all of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "additionalProperties": False,
            "examples": [
                {"queries": [{"parts": [{"text": "two dogs on a beach"}]}], "k": 3},
                {
                    "queries": [
                        {"parts": [{"image_id": "scene-00110.jpg"}, {"text": "at night", "weight": 0.5}]},
                        {"parts": [{"text": "boats"}, {"text": "people", "weight": -0.5}], "for": "captions"},
                    ],
                    "k": 5,
                    "where": "split = 'test'",
                },
            ],
        }
    )

    queries: Annotated[list[QueryBody], FailFast()] = Field(min_length=1, max_length=MAX_QUERIES)
    k: int = Field(10, ge=1, le=MAX_K, description="Maximum number of hits per query.")
    offset: int = Field(0, ge=0, le=MAX_OFFSET, description="Number of best hits to leave out, to get the next ones.")
    where: str = Field(
        "",
        max_length=MAX_FILTER_CHARACTERS,
        description="Filter over the metadata; see docs/reference/filters.md.",
        examples=["split = 'test' and width >= 640"],
    )
    version: str = Field("", max_length=64, description="Version number or tag; empty for the published version.")
    min_probability: float | None = Field(None, ge=0, le=1, description=MIN_PROBABILITY)
    explain: bool = Field(True, description="Whether hits come with the words and regions that match.")
    unique: bool = Field(False, description=UNIQUE)


def parse_search_body(content: bytes) -> SearchBody:
    """Parse the JSON body of a search.

    Raises:
        InvalidRequestError: It is not JSON, or a value is invalid. Of each list, the first invalid value is named.
    """
    try:
        body = SearchBody.model_validate_json(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        raise InvalidRequestError([_describe(_leave_out_kind(one["loc"]), one["msg"]) for one in found]) from None
    if errors := list(islice(_list_unknown_fields(body), MAX_ERRORS)):
        raise InvalidRequestError(errors)
    if len(body.queries) * body.k > MAX_HITS:
        message = f"{len(body.queries)} queries of {body.k} hits; all queries together have at most {MAX_HITS:,} hits"
        raise InvalidRequestError([_describe(("k",), message)])
    return body


def make_queries(body: SearchBody) -> list[Query]:
    """Convert the queries of a body.

    Raises:
        InvalidRequestError: A photo is not base64, or there are too many photos.
    """
    queries, errors = [], []
    for number, query in enumerate(body.queries):
        try:
            queries.append(query.to_query())
        except ValueError as error:
            errors.append(_describe(("queries", number), str(error)))
    if errors:
        raise InvalidRequestError(errors)
    if (photos := sum(query.num_photos for query in queries)) > MAX_PHOTOS:
        message = f"{photos} photos and boxes of images; a request has at most {MAX_PHOTOS}"
        raise InvalidRequestError([_describe(("queries",), message)])
    return queries


def _list_unknown_fields(body: SearchBody) -> Iterator[InvalidValue]:
    models: list[tuple[tuple[int | str, ...], BaseModel]] = [((), body)]
    for i, query in enumerate(body.queries):
        models.append((("queries", i), query))
        models += [(("queries", i, "parts", j), part) for j, part in enumerate(query.parts)]
    for location, model in models:
        for name in model.model_extra or ():
            yield _describe((*location, name), "Extra inputs are not permitted")


def _leave_out_kind(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return location[:4] + location[5:]  # after `queries`, i, `parts`, j pydantic names the kind of the part


def _describe(location: tuple[int | str, ...], message: str) -> InvalidValue:
    names = [str(name).replace("~", "~0").replace("/", "~1")[:60] for name in location]
    pointer = "".join(f"/{name}" for name in names)
    return InvalidValue(pointer=pointer, detail=message.removeprefix("Value error, "))
