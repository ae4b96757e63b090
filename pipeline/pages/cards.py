"""Rows that the templates of the pages show, and the small images in them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageOps

from data.images import encode_jpeg, load_thumbnail
from pipeline.pages.card_words import REGION_COLORS, CardWord, Outline, make_outlines, make_words
from pipeline.search.hits import Hit

THUMBNAIL = (360, 270)  # width and height, in pixels
SMALL_THUMBNAIL = (240, 180)  # of pages with many images
KIND_COLORS = {"image": "#2a6fdb", "caption": "#e4572e"}  # of points that are images or captions
MISSING_COLOR = "#bbbbbb"  # of the thumbnail of an image file that cannot be read


@dataclass(frozen=True)
class HitCard:
    """A hit with its thumbnail.

    Attributes:
        image: data URI or address of the thumbnail
        name: id of the image or caption
        score: cosine of query and hit
        captions: captions of the image; the first one is shown
        labels: class and color of the marked regions
        is_relevant: whether the card has a green frame
        rank: number in front of the score; None: the position of the card in its row
        size: width and height in pixels of the image that the outlines refer to
        outlines: boxes to draw over the thumbnail; empty if it has them already
        probability: chance that the hit is right, 0 to 1; None if it is not known
        words: words of the query with the regions that they match; empty if they are not known
    """

    image: str
    name: str
    score: float
    captions: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    is_relevant: bool = False
    rank: int | None = None
    size: tuple[int, int] | None = None
    outlines: tuple[Outline, ...] = ()
    probability: float | None = None
    words: tuple[CardWord, ...] = ()

    @property
    def caption(self) -> str:
        """First caption, or an empty string."""
        return self.captions[0] if self.captions else ""


@dataclass(frozen=True)
class ScoredCaption:
    """A caption that was found for a photo."""

    text: str
    score: float
    is_relevant: bool


@dataclass(frozen=True)
class PhotoCard:
    """An image that was used as a query, with the captions that were found for it, best first.

    Attributes:
        image: data URI of the thumbnail
    """

    image: str
    name: str
    captions: tuple[ScoredCaption, ...]


@dataclass(frozen=True)
class MissRow:
    """A missed query with the items that ranked higher than its relevant item.

    Attributes:
        query: id of the caption or image
        text: the caption, or the id of the image
        rank: rank of the relevant item, from 1
        margin: score of the best item minus score of the relevant item
        other_rank: rank in the evaluation that this one is compared with; None without one
    """

    query: str
    text: str
    rank: int
    margin: float
    cards: tuple[HitCard, ...]
    other_rank: int | None = None


@dataclass(frozen=True)
class StageRow:
    """A finished stage of the pipeline."""

    stage: str
    description: str
    output: str
    """name of the file or folder it returned"""
    seconds: float


@dataclass(frozen=True)
class CollectionRow:
    """A collection of the published index."""

    kind: str
    rows: int
    factory: str
    shards: int
    nlist: int
    nprobe: int
    recall: float
    """recall@10 against exact search, 0 to 1"""
    queries: str
    """number and source of the queries that recall was measured with"""
    is_exact: bool
    """whether every query is compared with all vectors"""


def make_thumbnail(hit: Hit, size: tuple[int, int] = THUMBNAIL) -> Image.Image:
    """Return a small copy of the image of a hit with its regions outlined; gray if the file is unreadable."""
    image = load_thumbnail(hit.path, size)
    if image is None:
        return Image.new("RGB", size, MISSING_COLOR)
    small = ImageOps.contain(Image.fromarray(image.pixels), size)
    scale, draw = small.width / image.size[0], ImageDraw.Draw(small)
    for region, color in zip(hit.regions, REGION_COLORS, strict=False):
        x1, y1, x2, y2 = (value * scale for value in region.box)
        draw.rectangle([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)], outline=color, width=3)
    return small


def to_data_uri(image: Image.Image) -> str:
    """Encode an image as a JPEG data URI, so that a page needs no other file."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image)).decode()


def make_card(hit: Hit, rank: int | None = None, image: str | None = None) -> HitCard:
    """Make the card of a hit.

    Args:
        hit: Image or caption that was found.
        rank: Number in front of the score; None: the position of the card in its row.
        image: Data URI of the thumbnail, if it exists already.
    """
    labels = tuple((r.label, color) for r, color in zip(hit.regions, REGION_COLORS, strict=False) if r.label)
    card = HitCard(image or "", hit.id, hit.score, hit.captions, labels, rank=rank, probability=hit.probability)
    if hit.words and hit.size is not None:  # the page draws the regions, so that they can follow the pointer
        image = image or to_data_uri(make_thumbnail(replace(hit, regions=())))
        return replace(card, image=image, size=hit.size, outlines=make_outlines(hit), words=make_words(hit))
    return replace(card, image=image or to_data_uri(make_thumbnail(hit)), words=make_words(hit))


def make_cards(hits: Sequence[Hit]) -> tuple[HitCard, ...]:
    """Make one card per hit, in their order."""
    return tuple(map(make_card, hits))
