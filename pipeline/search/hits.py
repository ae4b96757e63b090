"""Results of a search, which pages and the search service show."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Region:
    """A region of a hit that raises its score."""

    box: tuple[float, float, float, float]
    """Box x1, y1, x2, y2 in pixels of the image."""
    label: str
    """Class that the detector predicted; empty if the regions have no classes."""
    score: float
    """How much the region raises the score: that of the image minus that of the image without the region."""


@dataclass(frozen=True)
class Hit:
    """An image or a caption that a search returned."""

    id: str
    """Id of the image or caption."""
    score: float
    """Cosine between the query and the item, -1 to 1."""
    path: Path
    """Image file; for a caption, the file of its image."""
    captions: tuple[str, ...]
    """All captions of the image; for a caption, its text."""
    regions: tuple[Region, ...] = ()
    """Regions of the image that raise the score most, at most two; empty for a caption."""
    size: tuple[int, int] | None = None
    """Width and height of the image in pixels, to which the boxes of the regions refer; None for a caption."""
    image_id: str = ""
    """Id of the image; for a caption, the id of its image."""
    probability: float | None = None
    """Chance that the hit is right, 0 to 1; None if it is unknown (see `find_calibration`)."""


@dataclass(frozen=True)
class Answer:
    """The results of one query."""

    hits: tuple[Hit, ...]
    """Best first."""
    note: str = ""
    """What a person should know of the query, such as that the model does not know a part of it; or empty."""
    weak: tuple[Hit, ...] = ()
    """Further hits, best first, that are probably not right: their probability is below a minimum."""
