"""`Query`: what a search is run with, a weighted sum of texts, photos, images of the index and vectors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Target = Literal["image", "caption"]
Box = tuple[float, float, float, float]
Photo = Path | bytes
"""An image file, or its content."""


@dataclass(frozen=True)
class TextPart:
    """A text in a query."""

    text: str
    """1 to 2,000 characters."""
    weight: float = 1.0
    """Factor of the vector of this part, -100 to 100; below 0, the query avoids what the part describes."""


@dataclass(frozen=True)
class PhotoPart:
    """A photo in a query, or a region of it."""

    photo: Photo
    box: Box | None = None
    """Region x1, y1, x2, y2 in pixels of the photo as it is shown; None is the whole photo."""
    weight: float = 1.0
    """As of `TextPart`."""


@dataclass(frozen=True)
class ImagePart:
    """An image of the index in a query, or a region of it."""

    image_id: str
    box: Box | None = None
    """Region x1, y1, x2, y2 in pixels of the image; None is the whole image."""
    weight: float = 1.0
    """As of `TextPart`."""


@dataclass(frozen=True)
class VectorPart:
    """An embedding in a query."""

    vector: np.ndarray
    """(e,) float32; it is scaled to unit length."""
    weight: float = 1.0
    """As of `TextPart`."""


QueryPart = TextPart | PhotoPart | ImagePart | VectorPart


@dataclass(frozen=True)
class Query:
    """A weighted sum of parts: the unit vectors of the parts times their weights, added and scaled to unit length.

    The images that a query is made of (`ImagePart` with a weight above 0, and a `PhotoPart` whose file is an image of
    the index) are left out of its results.
    """

    parts: tuple[QueryPart, ...]
    """1 to `MAX_PARTS` parts."""
    target: Target = "image"
    """What is searched: images or captions."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the query."""
        return tuple(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def num_photos(self) -> int:
        """The number of parts for which a file is decoded and the detector runs: photos, and boxes of images."""
        return sum(
            isinstance(part, PhotoPart) or (isinstance(part, ImagePart) and part.box is not None) for part in self.parts
        )


MAX_PARTS = 16
MAX_WEIGHT = 100
MAX_QUERIES = 64  # of one pass
# Weights below 0 of a text to avoid, as measured on the demo: docs/benchmarks.md, "Neighbors of an image".
AVOIDED_BESIDE_TEXT, AVOIDED_BESIDE_IMAGE = 0.5, 1.0


def make_text_query(text: str, target: Target = "image") -> Query:
    """Make the query of one text."""
    return Query((TextPart(text),), target)


def make_photo_query(photo: Photo, target: Target = "caption") -> Query:
    """Make the query of one photo."""
    return Query((PhotoPart(photo),), target)


@dataclass(frozen=True)
class SearchRequest:
    """A query with its options."""

    query: Query
    k: int = 10
    """Maximum number of hits."""
    offset: int = 0
    """Number of best hits to leave out."""
    where: str | None = None
    """Filter over the metadata; None is no filter."""
    min_probability: float | None = None
    """Smallest probability of a hit that is not weak; None is the limit of the index, 0 has no weak hits."""
    explain: bool = True
    """Whether hits come with the words and regions that match."""
    unique: bool = False
    """Whether images are left out that are near copies of a better hit."""
