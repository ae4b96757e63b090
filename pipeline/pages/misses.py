"""Where retrieval fails: captions whose image came late, images whose captions all did, and what won instead."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data.datasets import Dataset
from data.io import write_text
from data.store import Store
from data.text import printable
from pipeline.pages.cards import make_card, make_thumbnail, templates, to_data_uri
from pipeline.search.hits import Hit
from pipeline.stages.dataset import held_out_ids
from pipeline.stages.results import VectorStores
from tern.evaluation import compute_ranks, encode_image_ids, summarize_ranks

WINNERS = 4  # shown a miss
DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}


@dataclass(frozen=True)
class Miss:
    """A query whose right answer came late: ids and cosines of the answer and of the best of the wrong ones."""

    direction: str  # a key of WAYS
    query: str
    rank: int  # of the right answer (from an image: the best of its captions), from 1
    relevant_id: str
    score: float
    winners: tuple[tuple[str, float], ...]  # best first, WINNERS at most, none that came behind the right answer

    @property
    def margin(self) -> float:
        """By how much the winner led."""
        return self.winners[0][1] - self.score


@dataclass(frozen=True)
class MissReport:
    """The misses of a split: all are counted, the worst are kept."""

    split: str
    k: int
    metrics: dict[str, float]  # as `tern.metrics.retrieval_metrics`
    num_queries: dict[str, int]  # way -> queries
    num_missed: dict[str, int]  # way -> right answers beyond rank k
    worst: dict[str, tuple[Miss, ...]]  # way -> worst first


def find_misses(vectors: VectorStores, dataset: Dataset, split: str, k: int = 1, limit: int = 40) -> MissReport:
    """The `limit` worst queries of each direction whose right answer came behind the first k, by the ranks of `tern`.

    Raises ValueError if the split has no images, or none with a caption.
    """
    images, captions = Store(vectors.images), Store(vectors.captions)
    image_ids, caption_ids, owners = held_out_ids(dataset, images, split)
    if not caption_ids:
        raise ValueError(
            f"{dataset.name}: no image of split {split!r} has a caption, so nothing can be asked; it has "
            f"{dataset.count_images_by_split()}: choose another --split."
        )
    seen = images.read("features", image_ids).astype("float32")
    told = captions.read("features", caption_ids).astype("float32")
    owned = encode_image_ids(seen, image_ids, told, owners)
    i2t, t2i = compute_ranks(seen, told, *owned)
    sides = {"t2i": (t2i, told, caption_ids, seen, image_ids), "i2t": (i2t, seen, image_ids, told, caption_ids)}
    worst = {}
    for way, (ranks, queries, names, gallery, found) in sides.items():
        own, theirs = owned[::-1] if way == "t2i" else owned
        late = [i for i in np.argsort(-ranks, kind="stable")[:limit] if ranks[i] >= k]
        rows = ((names[i], int(ranks[i]), gallery @ queries[i], theirs, own[i]) for i in late)
        worst[way] = tuple(_miss(way, found, *row) for row in rows)
    missed = {way: int((side[0] >= k).sum()) for way, side in sides.items()}
    asked = {way: int((side[0] >= 0).sum()) for way, side in sides.items()}
    return MissReport(split, k, summarize_ranks(i2t, t2i), asked, missed, worst)


def _miss(way: str, ids: list[str], query: str, rank: int, scores: np.ndarray, theirs: np.ndarray, own: int) -> Miss:
    """scores (g,) of one query, theirs (g,) the labels of the gallery's rows, own the query's: rank counts from 0."""
    order = np.lexsort((theirs, -scores))
    winners = order[theirs[order] != own][: min(rank, WINNERS)]
    answer = order[theirs[order] == own][0]
    return Miss(
        way, query, rank + 1, ids[answer], float(scores[answer]), tuple((ids[i], float(scores[i])) for i in winners)
    )


def make_cards(
    misses: tuple[Miss, ...], dataset: Dataset, advance: Callable[[int], None] = lambda n: None
) -> list[dict[str, Any]]:
    """What the templates show of misses: the winners and, framed, the right answer (an image that asked comes first).

    Args:
        misses: of one direction or of both
        dataset: what they came from
        advance: told of each that is done
    """
    picture = lru_cache(maxsize=1000)(lambda path: to_data_uri(make_thumbnail(Hit("", 0.0, path, ()))))

    def shown(name: str, score: float, rank: int, right: bool) -> dict[str, Any]:
        if caption := dataset.captions_by_id.get(name):
            image, texts = dataset.images_by_id[caption.image_id], (caption.text,)
        else:
            image, texts = dataset.images_by_id[name], tuple(c.text for c in dataset.captions_by_image_id[name])
        hit = Hit(printable(name), score, image.path, tuple(map(printable, texts)))
        return make_card(hit, right, rank, picture(image.path))

    rows = []
    for miss in misses:
        winners = [shown(name, score, place, False) for place, (name, score) in enumerate(miss.winners, 1)]
        right = shown(miss.relevant_id, miss.score, miss.rank, True)
        row = [*winners, right] if miss.direction == "t2i" else [right, *winners]
        text = dataset.captions_by_id[miss.query].text if miss.direction == "t2i" else miss.query
        rows.append({"miss": miss, "text": printable(text), "name": printable(miss.query), "cards": row})
        advance(1)
    return rows


def write_misses(
    path: Path, found: MissReport, dataset: Dataset, on_progress: Callable[[int], None] = lambda n: None
) -> Path:
    """Write the misses as one page that needs no other file. Raises ValueError if `path` does not end in .html."""
    if path.suffix.lower() != ".html":
        raise ValueError(f"{path}: the page of misses ends in .html.")
    rows = {way: make_cards(misses, dataset, on_progress) for way, misses in found.worst.items()}
    content = {"found": found, "ways": DIRECTIONS, "rows": rows, "name": printable(dataset.name)}
    return write_text(path, templates.get_template("misses.html").render(content))
