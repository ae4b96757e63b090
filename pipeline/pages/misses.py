"""Find the queries of a split whose relevant items are not ranked within the first k, and write them as a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from data.datasets import Caption, Dataset
from data.io import write_text
from data.store import Store
from data.text import printable
from pipeline.pages.cards import SMALL_THUMBNAIL, THUMBNAIL, HitCard, MissRow, make_card, make_thumbnail, to_data_uri
from pipeline.pages.comparison import Changes, iter_changes, list_compared_metrics
from pipeline.pages.miss_records import MAX_SHOWN, Miss, MissReport
from pipeline.pages.miss_words import MissWords
from pipeline.pages.render import render_page
from pipeline.runs.quality import SplitComparison
from pipeline.search.hits import Hit
from pipeline.stages.dataset import held_out_ids
from pipeline.stages.results import VectorStores
from tern.evaluation import (
    DIRECTIONS,
    MissedQueries,
    chance_recalls,
    compute_ranks,
    encode_image_ids,
    summarize_ranks,
)

MAX_HIGHER_RANKED = 4  # shown per miss
MAX_CACHED_THUMBNAILS = 1000


def find_misses(
    vectors: VectorStores,
    dataset: Dataset,
    split: str,
    k: int = 1,
    limit: int = MAX_SHOWN,
    comparison: SplitComparison | None = None,
) -> MissReport:
    """Find the queries of a split whose relevant items are not ranked within the first k.

    The ranks are those of the cosine, before the best results are reranked.

    Args:
        vectors: Vectors of the dataset.
        dataset: Valid dataset.
        split: Split whose images and captions are the queries and the items.
        k: Number of results within which a query must succeed; at least 1.
        limit: Maximum number of misses listed per direction.
        comparison: This evaluation compared with another one: the misses that only the other one finds come first.

    Raises:
        ValueError: The split has no images or no captions.
    """
    images, captions = _read_split(vectors, dataset, split)
    part = dataset.select_split(split)
    invalid = _count_missed(images, captions, part)
    i2t_ranks, t2i_ranks = compute_ranks(images.vectors, captions.vectors, images.labels, captions.labels)
    directions = {"t2i": (t2i_ranks, captions, images), "i2t": (i2t_ranks, images, captions)}
    worst = {}
    for direction, (ranks, queries, items) in directions.items():
        others = comparison.other_ranks.get_direction(direction) if comparison else {}
        lost = set(comparison.directions[direction].lost) if comparison else set()
        is_found_there = np.array([name in lost for name in queries.ids])
        missed = [i for i in np.lexsort((-ranks, ~is_found_there))[:limit] if ranks[i] >= k]
        misses = (_make_miss(direction, queries, items, i, int(ranks[i])) for i in missed)
        worst[direction] = tuple(replace(miss, other_rank=others.get(miss.query)) for miss in misses)
    num_invalid = invalid._asdict()
    return MissReport(
        split,
        k,
        summarize_ranks(i2t_ranks, t2i_ranks, invalid),
        num_queries={name: int((ranks >= 0).sum()) + num_invalid[name] for name, (ranks, *_) in directions.items()},
        num_missed={name: int((ranks >= k).sum()) + num_invalid[name] for name, (ranks, *_) in directions.items()},
        worst=worst,
        chance=chance_recalls([len(texts) for texts in part.captions_by_image_id.values()]),
        comparison=comparison,
        limit=limit,
    )


@dataclass(frozen=True)
class _Items:
    """The images or the captions of a split.

    Attributes:
        vectors: (n, e) unit vectors, float32
        labels: (n,) equal for an image and its captions
    """

    ids: list[str]
    vectors: np.ndarray
    labels: np.ndarray


def _read_split(vectors: VectorStores, dataset: Dataset, split: str) -> tuple[_Items, _Items]:
    """Read the images and the captions of a split."""
    images, captions = Store(vectors.images), Store(vectors.captions)
    image_ids, caption_ids, caption_image_ids = held_out_ids(dataset, images, captions, split)
    if not caption_ids:
        hint = f"the splits have {dataset.count_images_by_split()} images. Choose another --split."
        hint = hint if dataset.captions else "the dataset has no captions. Add some to measure what a query finds."
        raise ValueError(f"{dataset.name}: no image of split {split!r} has a caption; {hint}")
    image_vectors = images.read("features", image_ids).astype("float32")
    caption_vectors = captions.read("features", caption_ids).astype("float32")
    image_labels, caption_labels = encode_image_ids(image_vectors, image_ids, caption_vectors, caption_image_ids)
    return _Items(image_ids, image_vectors, image_labels), _Items(caption_ids, caption_vectors, caption_labels)


def _count_missed(images: _Items, captions: _Items, part: Dataset) -> MissedQueries:
    """Count the queries of a split without a vector, which are missed and cannot be shown."""
    answered = set(captions.labels.tolist())
    num_image_queries = len({caption.image_id for caption in part.captions})
    return MissedQueries(num_image_queries - len(answered), len(part.captions) - len(captions.ids))


def _make_miss(direction: str, queries: _Items, items: _Items, query: int, rank: int) -> Miss:
    """Make the record of a miss.

    Args:
        direction: Key of `DIRECTIONS`.
        queries: Items that are the queries.
        items: Items that are ranked.
        query: Index of the query in `queries`.
        rank: Rank of its relevant item, from 0.
    """
    scores = items.vectors @ queries.vectors[query]
    order = np.lexsort((items.labels, -scores))  # equal scores are ordered by label, as in the evaluation
    is_relevant = items.labels[order] == queries.labels[query]
    relevant = order[is_relevant][0]
    higher_ranked = order[~is_relevant][: min(rank, MAX_HIGHER_RANKED)]
    return Miss(
        direction,
        queries.ids[query],
        rank + 1,
        items.ids[relevant],
        float(scores[relevant]),
        tuple((items.ids[i], float(scores[i])) for i in higher_ranked),
    )


def make_miss_rows(
    misses: Sequence[Miss],
    dataset: Dataset,
    on_progress: Callable[[int], object] = lambda count: None,
    words: MissWords | None = None,
) -> tuple[MissRow, ...]:
    """Make the rows that the templates show.

    Each row has the cards of the items that are ranked higher and, in a green frame, of the relevant item: last for
    a caption query; first for an image query, where it stands for the query.

    Args:
        misses: Misses of one direction or of both.
        dataset: Dataset that the misses are from.
        on_progress: Called with 1 after each row.
        words: Matches the words of caption queries with the regions of images; None shows no words.
    """
    make_item_card = _CardMaker(dataset, words).make
    rows = []
    for miss in misses:
        caption = dataset.captions_by_id[miss.query] if miss.direction == "t2i" else None
        cards = [
            make_item_card(item_id, score, rank, caption) for rank, (item_id, score) in enumerate(miss.higher_ranked, 1)
        ]
        relevant = replace(make_item_card(miss.relevant_id, miss.score, miss.rank, caption), is_relevant=True)
        text = caption.text if caption else miss.query
        row = (*cards, relevant) if caption else (relevant, *cards)
        rows.append(MissRow(printable(miss.query), printable(text), miss.rank, miss.margin, row, miss.other_rank))
        on_progress(1)
    return tuple(rows)


class _CardMaker:
    """Makes the cards of images with their captions, and of captions with their image."""

    def __init__(self, dataset: Dataset, words: MissWords | None) -> None:
        self._dataset, self._words = dataset, words
        self._encode = lru_cache(maxsize=MAX_CACHED_THUMBNAILS)(_encode_image)

    def make(self, item_id: str, score: float, rank: int, query: Caption | None) -> HitCard:
        """Make the card of an item; that of an image has the words of a query."""
        if caption := self._dataset.captions_by_id.get(item_id):
            image, texts = self._dataset.images_by_id[caption.image_id], [caption.text]
        else:
            image = self._dataset.images_by_id[item_id]
            texts = [caption.text for caption in self._dataset.captions_by_image_id[item_id]]
        hit = Hit(printable(item_id), score, image.path, tuple(map(printable, texts)))
        if query is not None and self._words is not None:
            hit = self._words.add_to(hit, query, item_id)
        return make_card(hit, rank=rank, image=self._encode(image.path))


def _encode_image(path: Path, size: tuple[int, int] = THUMBNAIL) -> str:
    return to_data_uri(make_thumbnail(Hit("", 0.0, path, ()), size))


def _list_changes(report: MissReport, dataset: Dataset) -> list[Changes]:
    """List what was won and lost; none without a comparison."""
    if report.comparison is None:
        return []
    encode = lru_cache(maxsize=MAX_CACHED_THUMBNAILS)(partial(_encode_image, size=SMALL_THUMBNAIL))
    return list(iter_changes(report.comparison, dataset, report.limit, encode))


def write_misses(
    path: Path,
    report: MissReport,
    dataset: Dataset,
    on_progress: Callable[[int], object] = lambda count: None,
    words: MissWords | None = None,
) -> Path:
    """Write the misses as one page that needs no other file.

    Args:
        path: File to write; it ends in `.html`.
        report: Misses of a split.
        dataset: Dataset that the misses are from.
        on_progress: Called with 1 after each miss.
        words: As for `make_miss_rows`.

    Raises:
        ValueError: The path has another ending.
    """
    if path.suffix.lower() != ".html":
        raise ValueError(f"{path} does not end in .html. Pass a name with this ending.")
    rows = {name: make_miss_rows(misses, dataset, on_progress, words) for name, misses in report.worst.items()}
    page = render_page(
        "misses.html",
        title=f"Misses of {printable(dataset.name)}, split {report.split}",
        report=report,
        compared=list_compared_metrics(report),
        changes_shown=_list_changes(report, dataset),
        directions=DIRECTIONS,
        rows=rows,
    )
    return write_text(path, page)
