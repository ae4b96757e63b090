"""Read the vectors and results that a workspace has already. Nothing is extracted, trained, embedded or written.

Used by the commands that only read: `tern report`, `misses` and `index tune`.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from data.datasets import Dataset
from data.manifest import is_store, store_path
from data.store import Store
from index.versions import read_current
from pipeline.plans.plan import Plan
from pipeline.runs.invalid_records import list_invalid_records
from pipeline.runs.runner import Finished
from pipeline.runs.stage_log import StageEntry, read_stage_seconds
from pipeline.stages.dataset import HELD_OUT, read_plan_dataset, select_valid
from pipeline.stages.embed import find_vector_stores, list_invalid_vectors, make_vector_recipe
from pipeline.stages.evaluate import find_metrics_file, read_or_compute_evaluation
from pipeline.stages.index import find_served_version
from pipeline.stages.results import Features, Vectors
from pipeline.workspace import Workspace, check_published, describe_missing_vectors
from tern.card import read_model_card

log = logging.getLogger(__name__)


def read_finished(plan: Plan, on_message: Callable[[str], None] = log.info) -> Finished:
    """Read the results of what is published.

    Args:
        plan: The plan.
        on_message: Called with a line of text about what is read and what is left out.

    Raises:
        FileNotFoundError: No index is published, or something that it was made from is missing.
        ValueError: The published version was not built from a plan.
    """
    workspace = Workspace(plan.workspace)
    check_published(workspace)
    index, _ = find_served_version(workspace)
    vectors = read_vectors(plan, on_message=on_message)
    dataset = vectors.features.dataset
    evaluation = read_or_compute_evaluation(vectors, dataset, workspace, plan.evaluate)
    metrics = find_metrics_file(vectors, dataset, workspace, HELD_OUT, plan.evaluate)
    return Finished(plan, vectors, evaluation, index, _list_stages(workspace, vectors, metrics, index))


def read_vectors(plan: Plan, model: str | None = None, on_message: Callable[[str], None] = log.info) -> Vectors:
    """Read the vectors of one model, with the features and the part of the dataset that they were computed from.

    Args:
        plan: The plan.
        model: Name of a trained model; None: that of the published version, or without one the only model of the
            workspace that has vectors.
        on_message: As `read_finished`.

    Raises:
        FileNotFoundError: There are no vectors, or something that they were computed from is missing.
        ValueError: No version is published, and several models have vectors.
    """
    workspace = Workspace(plan.workspace)
    name = model or _find_model(workspace)
    folder = workspace.model(name)
    on_message(f"model  {name}")
    card, stores = read_model_card(folder), find_vector_stores(folder, workspace, plan.index.rerank)
    for path in (stores.images, stores.captions, stores.image_rows, stores.caption_rows):
        if path is not None:
            _check_store(path, "tern index")
    regions = _check_store(plan.regions_store or workspace.stores / f"regions-{card.region_recipe}", "tern extract")
    tokens = _check_store(workspace.stores / f"tokens-{card.token_recipe}", "tern extract")
    dataset = read_plan_dataset(plan)
    records = (
        *list_invalid_records(dataset, regions, tokens, is_external_store=plan.regions_store is not None),
        *list_invalid_vectors(stores, dataset),
    )
    invalid = {record.name for record in records}
    known = _select_known(dataset, Store(stores.images), Store(stores.captions), invalid)
    num_images, num_captions = len(dataset.images) - len(known.images), len(dataset.captions) - len(known.captions)
    if num_images or num_captions:
        on_message(
            f"left out  {num_images:,} images and {num_captions:,} captions that have no vector of this model yet; "
            "`tern index update` adds them"
        )
    features = Features(regions, tokens, select_valid(known, regions, tokens), known, records)
    return Vectors(**vars(stores), model=folder, features=features)


def _find_model(workspace: Workspace) -> str:
    """Return the name of the model of the published version; without one, of the only model with vectors."""
    if read_current(workspace.index) is not None:
        return find_served_version(workspace)[1].name
    names = [
        name
        for name in workspace.list_models()
        if is_store(store_path(workspace.vectors, "vectors", make_vector_recipe(workspace.models / name, "image")))
    ]
    if not names:
        raise FileNotFoundError(describe_missing_vectors(workspace))
    if len(names) > 1:
        raise ValueError(
            f"No index is published in {workspace.index}, and {len(names)} models have vectors: {', '.join(names)}. "
            "Pass one of them as --model, or publish an index with `tern index`."
        )
    return names[0]


def _check_store(folder: Path, command: str) -> Path:
    if not is_store(folder):
        raise FileNotFoundError(f"The store {folder} is missing. Run `{command}`, which makes it again.")
    return folder


def _select_known(dataset: Dataset, images: Store, captions: Store, invalid: set[str]) -> Dataset:
    """Select the items that have a vector or are known to be invalid: the dataset at the time of the embedding."""
    known = dataset.exclude_images({i.id for i in dataset.images if i.id not in images and i.id not in invalid})
    return replace(known, captions=tuple(c for c in known.captions if c.id in captions or c.id in invalid))


def _list_stages(workspace: Workspace, vectors: Vectors, metrics: Path, index: Path) -> tuple[StageEntry, ...]:
    """List the outputs that a report is made from, each with the duration of the run that made it."""
    features, seconds = vectors.features, read_stage_seconds(workspace)
    outputs = {
        "dataset": features.dataset.name,
        "region features": features.regions.name,
        "token features": features.tokens.name,
        "training": vectors.model.name,
        "embedding": f"{vectors.images.name}, {vectors.captions.name}",
        "evaluation": metrics.name,
        "index": index.stem,
    }
    return tuple(
        StageEntry(stage=stage, output=output, seconds=seconds.get((stage, output), 0.0))
        for stage, output in outputs.items()
    )
