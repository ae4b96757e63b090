"""Evaluate the vectors of one split: recalls and ranks and, if configured, means over folds and NDCG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.io import digest
from tern.config import EvaluationConfig
from tern.evaluation.baselines import chance_recalls
from tern.evaluation.metrics import average_metrics, make_folds
from tern.evaluation.ndcg import ndcg, read_relevances, write_relevances
from tern.evaluation.results import ChanceRecalls, RetrievalMetrics, SplitEvaluation
from tern.evaluation.rouge import rouge_l
from tern.evaluation.usable import find_usable_rows, rank_usable, summarize_usable


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


def rank_vectors(vectors: SplitVectors) -> tuple[np.ndarray, np.ndarray]:
    """Compute the ranks of both directions of a split as `rank_usable` does."""
    return rank_usable(vectors.images, vectors.image_ids, vectors.captions, vectors.caption_image_ids)


def evaluate_vectors(
    config: EvaluationConfig,
    vectors: SplitVectors,
    split: str,
    folder: Path,
    ranks: tuple[np.ndarray, np.ndarray] | None = None,
) -> SplitEvaluation:
    """Compute all metrics of one split.

    Args:
        config: What to measure.
        vectors: Vectors and ids of the split.
        split: Name of the split, which replaces `{split}` in `spice_file`.
        folder: Folder in which ROUGE-L relevances are kept from one evaluation to the next.
        ranks: Ranks of the complete split, as `rank_vectors` returns them; computed if None.

    Raises:
        ValueError: The number of folds does not divide the split, a file of relevances has another size, or as
            `retrieval_metrics`.
    """
    relevances = load_relevances(config, vectors, split, folder)
    all_rows = np.arange(len(vectors.images)), np.arange(len(vectors.captions))
    folds = None
    metrics = _measure(vectors, relevances, *all_rows, ranks)
    if config.folds:
        parts = make_folds(vectors.image_ids, vectors.caption_image_ids, config.folds)
        folds = average_metrics([_measure(vectors, relevances, *part) for part in parts])
    counts = Counter(vectors.caption_image_ids)
    return SplitEvaluation(
        images=len(vectors.image_ids),
        captions=len(vectors.caption_image_ids),
        metrics=metrics,
        folds=folds,
        chance=ChanceRecalls(**chance_recalls([counts[name] for name in vectors.image_ids])),
    )


def _measure(
    vectors: SplitVectors,
    relevances: Mapping[str, np.ndarray],
    image_rows: np.ndarray,
    caption_rows: np.ndarray,
    ranks: tuple[np.ndarray, np.ndarray] | None = None,
) -> RetrievalMetrics:
    """Compute the metrics of some images and captions, given by their rows; `ranks` are theirs if not None."""
    images, captions = vectors.images[image_rows], vectors.captions[caption_rows]
    image_ids = [vectors.image_ids[k] for k in image_rows]
    caption_image_ids = [vectors.caption_image_ids[k] for k in caption_rows]
    metrics = summarize_usable(*(ranks or rank_usable(images, image_ids, captions, caption_image_ids)))
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
