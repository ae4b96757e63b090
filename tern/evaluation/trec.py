"""Rankings as text files of TREC: `qrels` with the relevant items, and a `run` with the first results of each query.

Programs such as trec_eval, ir_measures and ranx order a query's results by score, in single precision, and break ties
by id. The scores are therefore written so that this order is that of the evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from data.io import atomic_write
from tern.evaluation.metrics import TIE_TOLERANCE, encode_image_ids, iter_score_blocks
from tern.evaluation.usable import find_usable_rows

UNSAFE = re.compile(r"[\s%\x00-\x1f\x7f-\x9f]")  # blanks end a column, and % starts an encoded character
SCORE_STEPS = 1_000_000  # written per unit: 32-bit floats below 8 distinguish them


class Ranking(NamedTuple):
    """The first results of one query."""

    query: str
    items: tuple[str, ...]
    """Ids, best first."""
    scores: np.ndarray
    """Their scores."""


def encode_id(name: str) -> str:
    """Encode blanks, control characters and `%` of an id as in a URL; `urllib.parse.unquote` decodes it."""
    return UNSAFE.sub(lambda match: quote(match[0], safe=""), name)


def write_qrels(path: Path, pairs: Iterable[tuple[str, str]]) -> Path:
    """Write pairs of a query and a relevant item, in the four columns of trec_eval, and return the path."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{encode_id(query)} 0 {encode_id(item)} 1\n" for query, item in pairs)
    return path


def write_run(path: Path, rankings: Iterable[Ranking], tag: str) -> Path:
    """Write rankings in the six columns of trec_eval, and return the path.

    Args:
        path: File to write.
        rankings: One ranking per query.
        tag: Name of the run: the last column.
    """
    tag = encode_id(tag)
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for query, items, scores in rankings:
            name = encode_id(query)
            values = (make_descending(scores) / SCORE_STEPS).tolist()
            file.writelines(
                f"{name} Q0 {encode_id(item)} {rank} {value:.6f} {tag}\n"
                for rank, (item, value) in enumerate(zip(items, values, strict=True), 1)
            )
    return path


def make_descending(scores: np.ndarray) -> np.ndarray:
    """Round scores to whole steps of 1 / `SCORE_STEPS`, each lowered until it is below the one before.

    Args:
        scores: (k,) in the order of the results; they may rise by the tolerance of ties.

    Returns:
        (k,) int64, strictly descending.
    """
    steps = np.rint(np.asarray(scores, np.float64) * SCORE_STEPS).astype(np.int64)
    positions = np.arange(len(steps))
    return np.minimum.accumulate(steps + positions) - positions


def rank_row(scores: np.ndarray, labels: np.ndarray, label: int, k: int) -> np.ndarray:
    """Order the first results of one query, so that the best relevant item has the rank of `rank_queries`.

    Args:
        scores: (g,) scores of all items.
        labels: (g,) int64 labels of the items, from `encode_image_ids`.
        label: Label of the relevant items; at least one item has it.
        k: Maximum number of results.

    Returns:
        Rows of the items, best first.
    """
    is_relevant = labels == label
    best = scores[is_relevant].max()
    rows = np.arange(len(scores))
    if k < len(scores):  # an item that is left out is neither among the first k nor decides a tie with one that is
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= kth - 2 * TIE_TOLERANCE)
    lead, smaller = scores[rows] - best, labels[rows] < label
    is_better = ~is_relevant[rows] & ((lead > TIE_TOLERANCE) | ((lead >= -TIE_TOLERANCE) & smaller))
    is_best = is_relevant[rows] & (scores[rows] == best)
    order = np.lexsort((labels[rows], -scores[rows], np.where(is_better, 0, np.where(is_best, 1, 2))))
    return rows[order[:k]]


class RankedSide(NamedTuple):
    """The images or the captions of a split, as queries or as items."""

    ids: Sequence[str]
    image_ids: Sequence[str]
    """The image of each."""
    vectors: np.ndarray
    """(n, e); not finite where there is none."""


def iter_rankings(images: RankedSide, captions: RankedSide, direction: str, k: int) -> Iterator[Ranking]:
    """Rank the items of a split for each of its queries with a usable vector.

    Args:
        images: Images of the split.
        captions: Captions of the split.
        direction: `t2i`: captions are the queries. `i2t`: images are; those without captions are none.
        k: Maximum number of results per query.

    Yields:
        One ranking per query, in the order of the split.
    """
    row_sets = find_usable_rows(images.vectors, images.image_ids, captions.vectors, captions.image_ids)
    images, captions = (_select(side, rows) for side, rows in zip((images, captions), row_sets, strict=True))
    if not len(captions.ids):
        return
    labels = encode_image_ids(images.vectors, images.image_ids, captions.vectors, captions.image_ids)
    queries, items = (captions, images) if direction == "t2i" else (images, captions)
    item_labels, query_labels = labels if direction == "t2i" else labels[::-1]
    answerable = set(item_labels.tolist())
    columns = items.vectors.astype(np.float32)
    for start, block in iter_score_blocks(queries.vectors.astype(np.float32), columns):
        for row, scores in enumerate(block, start):
            if (label := int(query_labels[row])) in answerable:
                best = rank_row(scores, item_labels, label, k)
                yield Ranking(queries.ids[row], tuple(items.ids[i] for i in best), scores[best])


def _select(side: RankedSide, rows: np.ndarray) -> RankedSide:
    return RankedSide([side.ids[row] for row in rows], [side.image_ids[row] for row in rows], side.vectors[rows])
