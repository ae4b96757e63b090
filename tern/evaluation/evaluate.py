"""Evaluate the vectors of one split: recalls and ranks and, if configured, means over folds and NDCG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.alignment import Embeddings, RowVectors
from data.io import digest
from tern.config import EvaluationConfig
from tern.evaluation.baselines import chance_recalls
from tern.evaluation.metrics import average_metrics, make_folds, summarize_ranks
from tern.evaluation.ndcg import ndcg, read_relevances, write_relevances
from tern.evaluation.rerank import rerank_split
from tern.evaluation.results import ChanceRecalls, RetrievalMetrics, SplitEvaluation
from tern.evaluation.rouge import rouge_l
from tern.evaluation.usable import count_missed, find_usable_rows, measure_usable


@dataclass(frozen=True)
class SplitVectors:
    """The vectors of one split, with what is needed to judge a ranking."""

    images: np.ndarray
    """(N, e) vectors, in the order of the split."""
    captions: np.ndarray
    """(M, e) vectors, in the order of the split."""
    image_ids: Sequence[str]
    """N ids, each once."""
    caption_image_ids: Sequence[str]
    """M image ids: the image of each caption."""
    texts: Sequence[str]
    """M captions."""
    rerank: Rerank | None = None
    """Row vectors and settings of the second stage; None without one."""


@dataclass(frozen=True)
class Rerank:
    """What a reranked evaluation needs besides the vectors."""

    images: RowVectors
    """Rows of the N images, in the order of the split; any rows for an image whose vector cannot be used."""
    captions: RowVectors
    """Rows of the M captions, likewise."""
    alignment_weight: float
    """As in `combine_scores`."""
    num_candidates: int
    """Maximum number of candidates per query, at least 1."""


def evaluate_vectors(config: EvaluationConfig, vectors: SplitVectors, split: str, folder: Path) -> SplitEvaluation:
    """Compute all metrics of one split.

    Args:
        config: What to measure.
        vectors: Vectors and ids of the split.
        split: Name of the split, which replaces `{split}` in `spice_file`.
        folder: Folder in which ROUGE-L relevances are kept from one evaluation to the next.

    Raises:
        ValueError: The number of folds does not divide the split, a file of relevances has another size, or as
            `retrieval_metrics`.
    """
    relevances = load_relevances(config, vectors, split, folder)
    all_rows = np.arange(len(vectors.images)), np.arange(len(vectors.captions))
    folds = None
    metrics = _measure(vectors, relevances, *all_rows)
    if config.folds:
        parts = make_folds(vectors.image_ids, vectors.caption_image_ids, config.folds)
        folds = average_metrics([_measure(vectors, relevances, *part) for part in parts])
    counts = Counter(vectors.caption_image_ids)
    return SplitEvaluation(
        images=len(vectors.image_ids),
        captions=len(vectors.caption_image_ids),
        metrics=metrics,
        folds=folds,
        reranked=_measure_reranked(vectors),
        chance=ChanceRecalls(**chance_recalls([counts[name] for name in vectors.image_ids])),
    )


def _measure(
    vectors: SplitVectors, relevances: Mapping[str, np.ndarray], image_rows: np.ndarray, caption_rows: np.ndarray
) -> RetrievalMetrics:
    """Compute the metrics of some images and captions, given by their rows."""
    images, captions = vectors.images[image_rows], vectors.captions[caption_rows]
    image_ids = [vectors.image_ids[k] for k in image_rows]
    caption_image_ids = [vectors.caption_image_ids[k] for k in caption_rows]
    metrics = measure_usable(images, image_ids, captions, caption_image_ids)
    values: dict[str, dict[str, float]] = {"i2t": {}, "t2i": {}}
    used_images, used_captions = find_usable_rows(images, image_ids, captions, caption_image_ids)
    used_ids, used_names = [image_ids[k] for k in used_images], [caption_image_ids[k] for k in used_captions]
    shares = {
        "i2t": len(set(used_names)) / len(set(caption_image_ids)),
        "t2i": len(used_names) / len(caption_image_ids),
    }
    for method, matrix in relevances.items():
        rows, columns = caption_rows[used_captions], image_rows[used_images]
        inputs = images[used_images], used_ids, captions[used_captions], used_names
        means = ndcg(*inputs, matrix, rows, columns) if used_names else {}
        for direction, share in shares.items():  # the NDCG of a missed query is 0
            values[direction][method] = share * means.get(f"{direction}_ndcg", 0.0)
    i2t = metrics.i2t.model_copy(update={"ndcg": values["i2t"]})
    return metrics.model_copy(update={"i2t": i2t, "t2i": metrics.t2i.model_copy(update={"ndcg": values["t2i"]})})


def _measure_reranked(vectors: SplitVectors) -> RetrievalMetrics | None:
    """Compute the metrics of a split after reranking. Queries without a usable vector are missed, as without it."""
    rerank, ids = vectors.rerank, (vectors.image_ids, vectors.caption_image_ids)
    if rerank is None:
        return None
    image_rows, caption_rows = find_usable_rows(vectors.images, ids[0], vectors.captions, ids[1])
    missed = count_missed(caption_rows, ids[1])
    if not len(caption_rows):
        return None
    directions = rerank_split(
        Embeddings(vectors.images, rerank.images).select(image_rows),
        [ids[0][row] for row in image_rows],
        Embeddings(vectors.captions, rerank.captions).select(caption_rows),
        [ids[1][row] for row in caption_rows],
        rerank.num_candidates,
    )
    i2t, t2i = (part.compute_ranks(rerank.alignment_weight) for part in directions)
    return summarize_ranks(i2t, t2i, missed)


def load_relevances(
    config: EvaluationConfig, vectors: SplitVectors, split: str, folder: Path
) -> Mapping[str, np.ndarray]:
    """Open the relevances of captions (rows) and images (columns), by method.

    Those of ROUGE-L are computed if their file is missing.

    Args:
        config: Which relevances to open.
        vectors: Ids, texts and vectors of the split.
        split: Name of the split; it replaces "{split}" in `config.spice_file`.
        folder: Folder of the file of ROUGE-L.

    Returns:
        By method, rougeL or spice, (captions, images) memory-mapped, 0 to 1.
    """
    relevances: dict[str, np.ndarray] = {}
    shape = len(vectors.texts), len(vectors.image_ids)
    if config.ndcg:
        name = digest([vectors.image_ids, vectors.caption_image_ids, vectors.texts])
        path = folder / f"relevances-{name}-rougeL.npy"
        if not path.is_file():
            column = {image_id: index for index, image_id in enumerate(vectors.image_ids)}
            image_index = [column[image_id] for image_id in vectors.caption_image_ids]
            write_relevances(path, rouge_l(vectors.texts, vectors.texts, image_index, len(vectors.image_ids)))
        relevances["rougeL"] = read_relevances(path, *shape)
    if config.spice_file:
        relevances["spice"] = read_relevances(Path(config.spice_file.replace("{split}", split)), *shape)
    return relevances
