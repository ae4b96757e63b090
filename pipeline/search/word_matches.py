"""Words that explain a hit: which region each word of a query matches, with which share of the alignment score.

Shapes: w words, r regions.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data.alignment import RowVectors, divide_score
from extractors.torch_free import Word
from pipeline.search.hits import REGIONS_PER_HIT, WHOLE_IMAGE, Region, WordMatch
from pipeline.search.query import Box
from pipeline.search.stored_images import StoredBoxes

MIN_COVERED = 0.98  # of the width and of the height, by a region that is the whole image


def match_words(
    words: Sequence[Word], query: RowVectors, image: RowVectors, stored: StoredBoxes | None
) -> tuple[WordMatch, ...]:
    """Match the words of a query with the regions of an image.

    A word has the region with which it adds most to the alignment score.

    Args:
        words: Words of the query.
        query: Row vectors of the query, one per token.
        image: Row vectors of the image, one per region.
        stored: Boxes of its regions; None, or those of another number of regions, if they are not known.

    Returns:
        The words in their order; none if the query as a whole does not match.
    """
    divided = divide_score(query, image)
    total = float(divided.parts.sum())
    if total <= 0 or not words:
        return ()
    if stored is not None and len(stored.boxes) != int(image.lengths[0]):  # extracted again after it was indexed
        stored = None
    # All words at once: a hit has a dozen, and a page ten hits.
    tokens = np.concatenate([word.tokens for word in words])
    starts = np.cumsum([0, *(len(word.tokens) for word in words[:-1])])
    parts = np.add.reduceat(divided.parts[tokens], starts, axis=0)  # (w, r)
    cosines = np.maximum.reduceat(divided.cosines[tokens], starts, axis=0)  # (w, r)
    regions = parts.argmax(axis=1)  # (w,)
    shares, best = parts.sum(axis=1) / total, cosines[np.arange(len(words)), regions]  # (w,), (w,)
    described = [(None, "") if stored is None else _describe_region(stored, region) for region in regions.tolist()]
    return tuple(
        WordMatch(word.text, word.start, word.end, share, cosine, region, *box_and_label)
        for word, share, cosine, region, box_and_label in zip(
            words, shares.tolist(), best.tolist(), regions.tolist(), described, strict=True
        )
    )


def _describe_region(stored: StoredBoxes, number: int) -> tuple[Box | None, str]:
    """Return the box of a region, unless it is a cell of a grid, and its label."""
    x1, y1, x2, y2 = stored.boxes[number].tolist()
    width, height = stored.size
    if x2 - x1 >= MIN_COVERED * width and y2 - y1 >= MIN_COVERED * height:
        return (x1, y1, x2, y2), WHOLE_IMAGE
    return None if stored.is_grid else (x1, y1, x2, y2), stored.labels[number]


def list_word_regions(words: Sequence[WordMatch]) -> list[Region]:
    """List the regions that words match, except the whole image, by the sum of the shares of their words."""
    shares: dict[int, float] = defaultdict(float)
    for word in words:
        shares[word.region] += word.share
    word_by_region = {word.region: word for word in words}
    regions = [
        Region(word.box, word.label, shares[number])
        for number, word in word_by_region.items()
        if word.box is not None and word.label != WHOLE_IMAGE and shares[number] > 0
    ]
    return sorted(regions, key=lambda region: -region.score)


def choose_regions(words: Sequence[WordMatch]) -> tuple[Region, ...]:
    """Choose the regions that explain a hit, best first: at most `REGIONS_PER_HIT`."""
    return tuple(list_word_regions(words)[:REGIONS_PER_HIT])
