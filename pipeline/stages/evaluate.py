"""Evaluation stage: retrieval metrics of the held-out splits, into a JSON file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data.alignment import RowVectors, concatenate_rows
from data.datasets import Dataset
from data.io import digest
from data.store import Store, read_intact_row_vectors
from pipeline.stages.dataset import HELD_OUT, splits_with_captions
from pipeline.stages.results import VectorStores
from pipeline.workspace import Workspace
from tern.card import read_model_card
from tern.config import EvaluationConfig
from tern.evaluation import (
    DEFAULT_CANDIDATES,
    Evaluation,
    Rerank,
    SplitEvaluation,
    SplitVectors,
    evaluate_vectors,
    read_evaluation,
    write_evaluation,
)

SCHEMA_VERSION = 3  # of the metrics file; raise it when the same inputs give other keys or numbers


def evaluate_splits(
    vectors: VectorStores,
    dataset: Dataset,
    workspace: Workspace,
    splits: tuple[str, ...] = HELD_OUT,
    config: EvaluationConfig | None = None,
    rerank: int = DEFAULT_CANDIDATES,
) -> Path:
    """Compute the retrieval metrics of some splits in both directions.

    Args:
        vectors: Vector stores of the model.
        dataset: Valid dataset. Splits without images or captions are left out.
        workspace: Workspace that the file is written to.
        splits: Names of the splits.
        config: Settings of the evaluation; the defaults if None.
        rerank: Maximum number of candidates per query that a model with row vectors reranks; 0 for none.

    Returns:
        The JSON file. Its name is a digest of all inputs; an existing file is not computed again.
    """
    config = config or EvaluationConfig()
    path = find_metrics_file(vectors, dataset, workspace, splits, config, rerank)
    if path.exists():
        return path
    settings = _Settings(config, rerank, workspace)
    return write_evaluation(path, _compute_evaluation(vectors, dataset, splits, settings, workspace.evaluation))


def read_or_compute_evaluation(
    vectors: VectorStores, dataset: Dataset, workspace: Workspace, config: EvaluationConfig, rerank: int
) -> Evaluation:
    """Return the metrics of the held-out splits as `evaluate_splits` computes them; nothing stays on the disk."""
    path = find_metrics_file(vectors, dataset, workspace, HELD_OUT, config, rerank)
    if path.exists():
        return read_evaluation(path)
    with TemporaryDirectory() as folder:
        return _compute_evaluation(vectors, dataset, HELD_OUT, _Settings(config, rerank, workspace), Path(folder))


def find_metrics_file(
    vectors: VectorStores,
    dataset: Dataset,
    workspace: Workspace,
    splits: tuple[str, ...],
    config: EvaluationConfig,
    rerank: int,
) -> Path:
    """Return the path of the metrics file of some inputs, which need not exist."""
    images, captions = Store(vectors.images), Store(vectors.captions)
    inputs = _digest_inputs(images, captions, dataset, splits, config)
    if vectors.image_rows is not None:  # row vectors come from the same model and items as the vectors
        inputs = digest([inputs, rerank])
    return workspace.evaluation / f"metrics-{inputs}.json"


@dataclass(frozen=True)
class _Settings:
    config: EvaluationConfig
    rerank: int
    workspace: Workspace


def _compute_evaluation(
    vectors: VectorStores, dataset: Dataset, splits: tuple[str, ...], settings: _Settings, folder: Path
) -> Evaluation:
    """Compute the metrics; `folder` keeps the relevances of ROUGE-L."""
    images, captions = Store(vectors.images), Store(vectors.captions)
    evaluations: dict[str, SplitEvaluation] = {}
    for name in splits_with_captions(dataset, splits):
        part = dataset.select_split(name)
        split = SplitVectors(
            _read_vectors(images, [image.id for image in part.images], images.dim),
            _read_vectors(captions, [caption.id for caption in part.captions], images.dim),
            [image.id for image in part.images],
            [caption.image_id for caption in part.captions],
            [caption.text for caption in part.captions],
            _read_rerank(vectors, part, settings),
        )
        evaluations[name] = evaluate_vectors(settings.config, split, name, folder)
    return Evaluation(splits=evaluations)


def _read_rerank(vectors: VectorStores, part: Dataset, settings: _Settings) -> Rerank | None:
    """Read what the second stage needs of a split; None for a model without row vectors."""
    if vectors.image_rows is None or vectors.caption_rows is None or not settings.rerank:
        return None
    images, captions = Store(vectors.image_rows), Store(vectors.caption_rows)
    model = settings.workspace.models / str(images.recipe["model"])
    return Rerank(
        _read_rows(images, [image.id for image in part.images]),
        _read_rows(captions, [caption.id for caption in part.captions]),
        read_model_card(model).alignment_weight,
        settings.rerank,
    )


def _read_rows(store: Store, ids: Sequence[str]) -> RowVectors:
    """Read the row vectors of items; one row of zeros for an item without any, whose vector cannot be used."""
    present = [name for name in ids if name in store]
    none = RowVectors(np.zeros((1, store.dim), np.int8), np.zeros(1, np.float16), np.ones(1, np.int64))
    position = {name: number for number, name in enumerate(present)}
    rows = concatenate_rows([read_intact_row_vectors(store, present), none])
    return rows.select([position.get(name, len(present)) for name in ids])


def _read_vectors(store: Store, ids: Sequence[str], dim: int) -> np.ndarray:
    """Read vectors (n, dim) as float32; NaN for an item without one, also if the store is empty."""
    vectors = np.full((len(ids), dim), np.nan, np.float32)
    if rows := [row for row, name in enumerate(ids) if name in store]:
        vectors[rows] = store.read("features", [ids[row] for row in rows])
    return vectors


def _digest_inputs(
    images: Store, captions: Store, dataset: Dataset, splits: tuple[str, ...], config: EvaluationConfig
) -> str:
    shards = [[shard.model_dump(mode="json") for shard in store.manifest.shards] for store in (images, captions)]
    content = [images.recipe, *shards]
    pairs = sorted((caption.id, caption.image_id) for caption in dataset.captions)
    gallery = sorted((image.id, image.split) for image in dataset.images if image.id in images)
    is_default = config == EvaluationConfig()
    settings = [] if is_default else [config.model_dump(mode="json"), _read_relevance_stamps(config, splits)]
    return digest([SCHEMA_VERSION, content, pairs, gallery, splits, *settings])


def _read_relevance_stamps(config: EvaluationConfig, splits: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return size and modification time of the files of relevances.

    A changed file is then evaluated again.
    """
    paths = [Path(config.spice_file.replace("{split}", split)) for split in splits if config.spice_file]
    return [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()]
