"""Results of a search, which pages, notebooks and the search service show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from data.io import ColumnValue
from pipeline.search.html import NotebookCard, render_cards

WHOLE_IMAGE = "whole image"  # label of a region that covers the image
REGIONS_PER_HIT = 2


@dataclass(frozen=True)
class Region:
    """A region of a hit that raises its score."""

    box: tuple[float, float, float, float]
    """Box x1, y1, x2, y2 in pixels of the image."""
    label: str
    """Class that the detector predicted; empty if the regions have no classes."""
    score: float
    """Sum of the shares of the words that match it best (see `WordMatch`). Without words, how much it raises the score:
    that of the image minus that of the image without the region."""


@dataclass(frozen=True)
class WordMatch:
    """A word of a text query, and the region of a hit that it matches best."""

    word: str
    start: int
    """Number of its first character in the query, in which words are separated by single spaces."""
    end: int
    """One past the number of its last character."""
    share: float
    """Part of the alignment score that the word brings: of its tokens with their best regions, and of the regions whose
    best token is one of them. The shares of all words, punctuation and special tokens add up to 1; that of a word which
    lowers the score is below 0."""
    cosine: float
    """Cosine between its row vector and that of the region."""
    region: int
    """Number of the region in the image, from 0."""
    box: tuple[float, float, float, float] | None = None
    """Box x1, y1, x2, y2 of the region in pixels of the image; None if it is not known, or a cell of a grid."""
    label: str = ""
    """Class that the detector predicted, or `WHOLE_IMAGE`; empty if the regions have no classes."""


@dataclass(frozen=True)
class Hit:
    """An image or a caption that a search returned."""

    id: str
    """Id of the image or caption."""
    score: float
    """Combined score of a hit with row vectors, else the cosine between the query and the item, -1 to 1."""
    path: Path
    """Image file; for a caption, the file of its image."""
    captions: tuple[str, ...]
    """All captions of the image; for a caption, its text."""
    regions: tuple[Region, ...] = ()
    """Regions of the image that match best, at most two: those of the words with the largest shares, and without words
    those that raise the score most. Empty for a caption."""
    size: tuple[int, int] | None = None
    """Width and height of the image in pixels, to which the boxes of the regions refer; None for a caption."""
    image_id: str = ""
    """Id of the image; for a caption, the id of its image."""
    probability: float | None = None
    """Chance that the hit is right, 0 to 1; None if it is unknown (see `find_calibration`)."""
    words: tuple[WordMatch, ...] = ()
    """Words of a query of one text with the regions that they match, in their order; empty for a caption, and for a
    model without row vectors."""
    columns: Mapping[str, ColumnValue] = field(default_factory=dict)
    """Values of the columns of the user's own, by name; those of the image for a caption."""

    def _repr_html_(self) -> str:
        """Return the HTML that notebooks show."""
        return render_cards([self.make_notebook_card()])

    def make_notebook_card(self, is_weak: bool = False) -> NotebookCard:
        """Return what a notebook shows of this hit."""
        return NotebookCard(self.path, self.id, self.score, self.probability, self.captions, is_weak)


@dataclass(frozen=True)
class Answer(Sequence[Hit]):
    """The results of one query; as a sequence, its hits."""

    hits: tuple[Hit, ...]
    """Best first."""
    note: str = ""
    """What a person should know of the query, such as that the model does not know a part of it; or empty."""
    weak: tuple[Hit, ...] = ()
    """Further hits, best first, that are probably not right: their probability is below a minimum."""

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, position: int) -> Hit: ...

    @overload
    def __getitem__(self, position: slice) -> tuple[Hit, ...]: ...

    def __getitem__(self, position: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[position]

    def _repr_html_(self) -> str:
        """Return the HTML that notebooks show: the hits, then the weak ones."""
        weak = [hit.make_notebook_card(is_weak=True) for hit in self.weak]
        return render_cards([*(hit.make_notebook_card() for hit in self.hits), *weak], self.note)
