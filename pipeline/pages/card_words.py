"""Words of a query on the card of a hit, and the outlines of the regions that they match."""

from dataclasses import dataclass

from pipeline.search.hits import WHOLE_IMAGE, Hit, Region
from pipeline.search.word_matches import list_word_regions

# Of regions, best first. The first two are always drawn, and further ones while their word is under the pointer.
REGION_COLORS = ("#e4572e", "#17bebb", "#7b5ea7", "#d98e04", "#3d6fd9", "#b8336a")


@dataclass(frozen=True)
class Outline:
    """A box that the page draws over a thumbnail.

    Attributes:
        number: number of the region among those that words of the card name
        is_shown: whether it is always drawn, not only while its word is under the pointer
    """

    x: float
    y: float
    width: float
    height: float
    color: str
    number: int
    is_shown: bool = True


@dataclass(frozen=True)
class CardWord:
    """A word of the query of a card.

    Attributes:
        share: part of the alignment score, in percent
        region: number of the outline of its region; None without one
        title: what the word matches
    """

    text: str
    share: float
    region: int | None
    title: str


def make_outlines(hit: Hit) -> tuple[Outline, ...]:
    """Make the outlines of the regions of a hit, and of those that only its words name; best first."""
    regions = list_word_regions(hit.words)[: len(REGION_COLORS)] or hit.regions
    return tuple(
        Outline(*_order_corners(region), color, number, number < len(hit.regions))
        for number, (region, color) in enumerate(zip(regions, REGION_COLORS, strict=False))
    )


def _order_corners(region: Region) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = region.box
    return min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)


def make_words(hit: Hit) -> tuple[CardWord, ...]:
    """Make the words of a hit, with the numbers of their outlines."""
    boxes = [region.box for region in list_word_regions(hit.words)[: len(REGION_COLORS)]]
    return tuple(
        CardWord(
            word.word,
            100 * word.share,
            boxes.index(word.box) if word.box in boxes and word.label != WHOLE_IMAGE else None,
            f"{100 * word.share:.0f} % of the score: {word.label} {word.cosine:.2f}",
        )
        for word in hit.words
    )
