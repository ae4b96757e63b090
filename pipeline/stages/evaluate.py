"""Evaluation stage: retrieval metrics of the held-out splits and the rank of every query, into two JSON files."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data.datasets import Dataset
from data.io import digest
from data.store import Store
from pipeline.stages.dataset import HELD_OUT, splits_with_captions
from pipeline.stages.results import VectorStores
from pipeline.workspace import Workspace
from tern.config import EvaluationConfig
from tern.evaluation import (
    Evaluation,
    EvaluationRanks,
    SplitEvaluation,
    SplitRanks,
    SplitVectors,
    evaluate_vectors,
    make_split_ranks,
    rank_vectors,
    read_evaluation,
    read_ranks,
    write_evaluation,
    write_ranks,
)

SCHEMA_VERSION = 3  # of the metrics file; raise it when the same inputs give other keys or numbers
METRICS = "metrics-"  # start of the name of a metrics file


def evaluate_splits(
    vectors: VectorStores,
    dataset: Dataset,
    workspace: Workspace,
    splits: tuple[str, ...] = HELD_OUT,
    config: EvaluationConfig | None = None,
) -> Path:
    """Compute the retrieval metrics of some splits in both directions, and keep the rank of every query.

    Args:
        vectors: Vector stores of the model.
        dataset: Valid dataset. Splits without images or captions are left out.
        workspace: Workspace that the file is written to.
        splits: Names of the splits.
        config: Settings of the evaluation; the defaults if None.

    Returns:
        The JSON file of the metrics; that of the ranks has the path of `find_ranks_file`. Its name is a digest of all
        inputs; existing files are not computed again.
    """
    config = config or EvaluationConfig()
    path = find_metrics_file(vectors, dataset, workspace, splits, config)
    if path.exists() and find_ranks_file(path).exists():
        return path
    evaluation, ranks = _compute_evaluation(vectors, dataset, splits, config, workspace.evaluation)
    write_ranks(find_ranks_file(path), ranks)  # first: where metrics are, the ranks are, also after a kill
    return write_evaluation(path, evaluation)


def read_or_compute_evaluation(
    vectors: VectorStores, dataset: Dataset, workspace: Workspace, config: EvaluationConfig
) -> Evaluation:
    """Return the metrics of the held-out splits as `evaluate_splits` computes them; nothing stays on the disk."""
    path = find_metrics_file(vectors, dataset, workspace, HELD_OUT, config)
    if path.exists():
        return read_evaluation(path)
    with TemporaryDirectory() as folder:
        return _compute_evaluation(vectors, dataset, HELD_OUT, config, Path(folder))[0]


def read_or_compute_ranks(
    vectors: VectorStores, dataset: Dataset, workspace: Workspace, split: str, config: EvaluationConfig
) -> SplitRanks:
    """Return the rank of every query of a split as `evaluate_splits` writes it; nothing stays on the disk.

    Raises:
        ValueError: The split has no images.
    """
    path = find_ranks_file(find_metrics_file(vectors, dataset, workspace, HELD_OUT, config))
    if path.exists() and split in (splits := read_ranks(path).splits):
        return splits[split]
    part = dataset.select_split(split)
    inputs = read_split_vectors(vectors, part)
    return make_split_ranks(*rank_vectors(inputs), inputs.image_ids, [caption.id for caption in part.captions])


def find_ranks_file(metrics: Path) -> Path:
    """Return the path of the ranks that belong to a metrics file, which need not exist."""
    return metrics.with_name(f"ranks-{metrics.name.removeprefix(METRICS)}")


def find_metrics_file(
    vectors: VectorStores, dataset: Dataset, workspace: Workspace, splits: tuple[str, ...], config: EvaluationConfig
) -> Path:
    """Return the path of the metrics file of some inputs, which need not exist."""
    images, captions = Store(vectors.images), Store(vectors.captions)
    return workspace.evaluation / f"{METRICS}{_digest_inputs(images, captions, dataset, splits, config)}.json"


def _compute_evaluation(
    vectors: VectorStores, dataset: Dataset, splits: tuple[str, ...], config: EvaluationConfig, folder: Path
) -> tuple[Evaluation, EvaluationRanks]:
    """Compute the metrics and the ranks; `folder` keeps the relevances of ROUGE-L."""
    evaluations: dict[str, SplitEvaluation] = {}
    ranks: dict[str, SplitRanks] = {}
    for name in splits_with_captions(dataset, splits):
        part = dataset.select_split(name)
        split = read_split_vectors(vectors, part)
        rows = rank_vectors(split)
        evaluations[name] = evaluate_vectors(config, split, name, folder, rows)
        ranks[name] = make_split_ranks(*rows, split.image_ids, [caption.id for caption in part.captions])
    return Evaluation(splits=evaluations), EvaluationRanks(splits=ranks)


def read_split_vectors(vectors: VectorStores, part: Dataset) -> SplitVectors:
    """Read the vectors of a part of the dataset; those of items without one are NaN."""
    images, captions = Store(vectors.images), Store(vectors.captions)
    return SplitVectors(
        _read_vectors(images, [image.id for image in part.images], images.dim),
        _read_vectors(captions, [caption.id for caption in part.captions], images.dim),
        [image.id for image in part.images],
        [caption.image_id for caption in part.captions],
        [caption.text for caption in part.captions],
    )


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
