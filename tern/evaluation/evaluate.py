"""What is measured on a held-out split: recalls and ranks, and as a plan asks, means over folds and NDCG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.io import digest
from tern.config import EvaluationConfig
from tern.evaluation.metrics import average_metrics, make_folds, retrieval_metrics
from tern.evaluation.ndcg import ndcg, read_relevances, write_relevances
from tern.evaluation.rouge import rouge_l


def evaluate_vectors(
    config: EvaluationConfig,
    vectors: tuple[np.ndarray, np.ndarray],
    image_ids: Sequence[str],
    caption_image_ids: Sequence[str],
    texts: Sequence[str],
    split: str,
    folder: Path,
) -> dict[str, float]:
    """All metrics of one split, by name.

    Args:
        vectors: images (N, e) and captions (M, e), in the order of the split
        image_ids: N; owners: M, the image id of each caption; texts: M captions
        folder: where relevances are kept from one evaluation to the next

    Raises:
        ValueError: folds that do not divide the split, a file of relevances of another size; as `retrieval_metrics`
    """
    images, captions = vectors
    relevances = load_relevances(config, image_ids, caption_image_ids, texts, split, folder)
    every = np.arange(len(images)), np.arange(len(captions))

    def of(rows: np.ndarray, columns: np.ndarray) -> dict[str, float]:
        data = images[rows], [image_ids[k] for k in rows], captions[columns], [caption_image_ids[k] for k in columns]
        found = retrieval_metrics(*data)
        for method, matrix in relevances.items():
            found |= {f"{name}_{method}": value for name, value in ndcg(*data, matrix, columns, rows).items()}
        return found

    found = of(*every)
    if config.folds:
        parts = make_folds(image_ids, caption_image_ids, config.folds)
        found |= {f"fold_{name}": value for name, value in average_metrics([of(*part) for part in parts]).items()}
    return found


def load_relevances(
    config: EvaluationConfig,
    image_ids: Sequence[str],
    owners: Sequence[str],
    texts: Sequence[str],
    split: str,
    folder: Path,
) -> Mapping[str, np.ndarray]:
    """Method -> relevances of captions (rows) and images (columns), on disk; ROUGE-L's are made if not there."""
    found, shape = {}, (len(texts), len(image_ids))
    if config.ndcg:
        path = folder / f"relevances-{digest([image_ids, owners, texts])}-rougeL.npy"
        if not path.is_file():
            column = {name: place for place, name in enumerate(image_ids)}
            write_relevances(path, rouge_l(texts, texts, [column[name] for name in owners], len(image_ids)))
        found["rougeL"] = read_relevances(path, *shape)
    if config.spice_file:
        found["spice"] = read_relevances(Path(config.spice_file.replace("{split}", split)), *shape)
    return found
