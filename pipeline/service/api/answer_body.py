"""Bodies that the API answers with: the service writes them, its client reads them, and they make the OpenAPI document.

This file imports nothing heavy, because the client imports it.
"""

from pydantic import BaseModel, ConfigDict, Field

from data.config import ColumnType
from data.io import ColumnValue

Box = tuple[float, float, float, float]

COLUMNS = "Values of the columns of the user's own, by name; of the image for a caption."


class RegionBody(BaseModel):
    """A region of a hit that matches the query."""

    box: Box = Field(description="x1, y1, x2, y2 in pixels of an image of `size`.")
    label: str = Field(description="Class that the detector predicted, or empty.")
    score: float = Field(
        description="How much of the score of the image is due to the region: the shares of its words."
    )


class WordBody(BaseModel):
    """A word of a text query, and the region of the hit that it matches best."""

    word: str
    start: int = Field(description="Number of its first character in the query with single spaces, from 0.")
    end: int = Field(description="One past the number of its last character.")
    share: float = Field(description="Part of the alignment score that the word brings; that of all tokens is 1.")
    cosine: float = Field(description="Cosine between the word and the region, -1 to 1.")
    region: int = Field(description="Number of the region in the image, from 0.")
    box: Box | None = Field(description="x1, y1, x2, y2 in pixels of an image of `size`; null for a cell of a grid.")
    label: str = Field(description="Class that the detector predicted, `whole image`, or empty.")


class HitBody(BaseModel):
    """An image or a caption that a search returned."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "scene-00320.jpg",
                    "image_id": "scene-00320.jpg",
                    "score": 0.812,
                    "probability": 0.74,
                    "captions": ["Two dogs are running on a beach."],
                    "regions": [{"box": [12.5, 80.0, 140.0, 190.5], "label": "dog", "score": 0.41}],
                    "words": [
                        {
                            "word": "dogs",
                            "start": 4,
                            "end": 8,
                            "share": 0.41,
                            "cosine": 0.83,
                            "region": 2,
                            "box": [12.5, 80.0, 140.0, 190.5],
                            "label": "dog",
                        }
                    ],
                    "size": [400, 300],
                    "columns": {"taken": "2024-05-31", "likes": 12, "tags": ["beach", "dogs"]},
                }
            ]
        }
    )

    id: str = Field(description="Id of the image or the caption.")
    image_id: str = Field(description="Id of the image; for a caption, of its image.")
    score: float = Field(
        description="Combined score of a hit with row vectors, else the cosine of query and item, -1 to 1."
    )
    probability: float | None = Field(description="Chance that the hit is right; null without a calibration.")
    captions: list[str] = Field(description="All captions of the image; for a caption, its text.")
    regions: list[RegionBody] = Field(description="Regions of the image that match best; none for a caption.")
    words: list[WordBody] = Field(
        description="Words of a query of one text that searches images; empty for a model without row vectors."
    )
    size: tuple[int, int] | None = Field(description="Width and height of the image in pixels; null for a caption.")
    columns: dict[str, ColumnValue] = Field(description=COLUMNS)


class AnswerBody(BaseModel):
    """The results of one query."""

    hits: list[HitBody] = Field(description="Best first.")
    weak: list[HitBody] = Field(description="Hits below `min_probability`, best first.", examples=[[]])
    note: str = Field(description="What a person should know of the query; empty if nothing.", examples=[""])


class SingleAnswerBody(AnswerBody):
    """The results of a query, and the version that gave them."""

    version: int = Field(description="Number of the version that answered.")


class AnswersBody(BaseModel):
    """The results of several queries, and the version that gave them."""

    version: int = Field(description="Number of the version that answered.")
    answers: list[AnswerBody] = Field(description="One per query, in their order.")


class CaptionBody(BaseModel):
    """A caption of an image."""

    id: str = Field(examples=["scene-00320.jpg#0"])
    text: str = Field(examples=["Two dogs are running on a beach."])


class StoredRegionBody(BaseModel):
    """A region of an image, whose number is its place in the list, from 0."""

    box: Box = Field(description="x1, y1, x2, y2 in pixels.")
    label: str = Field(description="Class that the detector predicted, or empty.", examples=["dog"])


class ItemBody(BaseModel):
    """The metadata of an image or a caption of the index."""

    kind: str = Field(description="image or caption", examples=["image"])
    id: str = Field(examples=["scene-00320.jpg"])
    image_id: str = Field(description="Id of the image; for a caption, of its image.", examples=["scene-00320.jpg"])
    text: str | None = Field(description="Text of a caption; null for an image.", examples=[None])
    split: str | None = Field(examples=["test"])
    width: int | None = Field(description="Width of the image in pixels.", examples=[400])
    height: int | None = Field(description="Height of the image in pixels.", examples=[300])
    columns: dict[str, ColumnValue] = Field(description=COLUMNS, examples=[{"taken": "2024-05-31", "likes": 12}])
    captions: list[CaptionBody] = Field(description="Captions of an image; empty for a caption.")
    regions: list[StoredRegionBody] = Field(
        description="Regions of an image in the order of their numbers; empty for a caption, and for cells of a grid."
    )
    version: int = Field(description="Number of the version that answered.")


class VersionBody(BaseModel):
    """A version of the index."""

    version: int
    tags: list[str] = Field(examples=[["prod"]])
    counts: dict[str, int] = Field(
        description="Number of items by kind: image, caption.", examples=[{"image": 1200, "caption": 6000}]
    )
    is_served: bool = Field(description="Whether requests without a version get this one.")
    is_rejected: bool = Field(
        description="Whether the version did not pass its gate; then it is not served.", examples=[False]
    )


class VersionsBody(BaseModel):
    """The versions of the index."""

    served: int = Field(description="Number of the version that requests without a version get.")
    versions: list[VersionBody] = Field(description="Oldest first.")


class ValueBody(BaseModel):
    """A value of a column."""

    value: str = Field(examples=["test"])
    count: int = Field(description="Number of items that have it.", examples=[100])


class ColumnBody(BaseModel):
    """A column that filters may name."""

    name: str = Field(examples=["split"])
    type: ColumnType = Field(description="`texts` is a list of texts.", examples=["text"])
    values: list[ValueBody] = Field(
        description="All values of a text or a list, most frequent first; empty if there are many."
    )
    minimum: int | float | str | None = Field(
        description="Smallest value of a number or a date; null for others.", examples=[None]
    )
    maximum: int | float | str | None = Field(
        description="Largest value of a number or a date; null for others.", examples=[None]
    )


class ColumnsBody(BaseModel):
    """The columns in which at least one item has a value."""

    columns: list[ColumnBody]
    version: int = Field(description="Number of the version that answered.")


class ExampleBody(BaseModel):
    """An image of the index, and a sentence that could find it."""

    image_id: str = Field(examples=["scene-00110.jpg"])
    text: str | None = Field(
        description="One of its captions, or a sentence that finds it; null if there is none.",
        examples=["Two dogs run."],
    )


class OverviewBody(BaseModel):
    """What is indexed, and what can be asked."""

    counts: dict[str, int] = Field(
        description="Number of items by kind: image, caption.", examples=[{"image": 1200, "caption": 6000}]
    )
    columns: list[str] = Field(description="Columns that filters may name.", examples=[["split", "width", "caption"]])
    model: str | None = Field(
        description="Name of the model of the vectors; null if no plan made the index.", examples=["tern-0123456789ab"]
    )
    published: str | None = Field(
        description="When the version was published, in UTC; null if it is not known.",
        examples=["2026-11-30T21:00:00+00:00"],
    )
    accepts_photos: bool = Field(description="Whether photos that are not in the index can be searched with.")
    has_words: bool = Field(description="Whether hits of a text say which words match which regions.")
    has_boxes: bool = Field(description="Whether it is known where the regions are; not for cells of a grid.")
    min_probability: float | None = Field(
        description="Hits of a text with a smaller chance of being right are weak; null without a calibration.",
        examples=[0.05],
    )
    notes: list[str] = Field(description="What a person should know of all answers.", examples=[[]])
    examples: list[ExampleBody] = Field(description="Up to eight images, of val and test if there are such splits.")
    version: int = Field(description="Number of the version that answered.")


class StatusBody(BaseModel):
    """State of the service."""

    status: str = Field(examples=["ready"])
    version: int = Field(description="Number of the served version.")


class InvalidValue(BaseModel):
    """One value of a request that is invalid."""

    pointer: str
    """JSON pointer into the body (RFC 6901), or the name of a parameter of the URL"""
    detail: str
    """What is wrong with it"""


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "The index has no version '99'."}
            ]
        }
    )

    type: str = "about:blank"
    title: str
    """The phrase of the status"""
    status: int
    """The HTTP status"""
    detail: str
    """What is wrong and what to do next"""
    errors: list[InvalidValue] | None = None
    """Every invalid value, for status 422"""
