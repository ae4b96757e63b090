"""Embedding stage: one unit vector per image and caption, into two vector stores; and loading of a trained model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data.alignment import Embeddings
from data.datasets import Dataset, InvalidRecord
from data.io import digest
from data.manifest import Item, Recipe, ShardPlan, open_or_create_store, store_path
from data.store import ShardJob, Store, read_image_regions, store_update, write_shard
from extractors.config import TextConfig
from extractors.torch_free import find_text_folder
from pipeline.stages.extract import log_existing
from pipeline.stages.results import VectorStores
from pipeline.stages.threads import one_torch_thread
from pipeline.workers import MapFn
from pipeline.workspace import Workspace
from tern.card import read_model_card
from tern.query import QuerySide, read_query_record

NORM_TOLERANCE = 1e-2  # as of the index
IMAGES_PER_WINDOW = 1024  # whose regions are in memory at once
VECTORS_PER_SHARD = 50_000  # 51 MB per shard for 512 float16 values per vector
SHORT_ROW = 64  # numbers per row vector with which a shard has that many items; with longer ones it has fewer


@dataclass(frozen=True)
class EmbeddingJob(ShardJob):
    """One shard of vectors to compute from the rows of a feature store."""

    model: Path
    """Folder of the model."""
    source: Path
    """Folder of the feature store."""
    modality: str
    """`image` or `caption`."""
    text: TextConfig | None = None
    """Config of the text encoder, for a model that was fine-tuned together with it."""
    rows_folder: Path | None = None
    """Folder of the store that the row vectors of the same items are written to; None writes none."""
    writes_vectors: bool = True
    """Whether the vectors are written; an interrupted run may have written them without the row vectors."""


def embed_dataset(
    model: Path,
    regions: Path,
    tokens: Path,
    dataset: Dataset,
    workspace: Workspace,
    map_fn: MapFn = map,
    text: TextConfig | None = None,
) -> VectorStores:
    """Embed all images and captions that have no vector of this model yet.

    Args:
        model: Folder of the model.
        regions: Folder of the region store.
        tokens: Folder of the token store.
        dataset: Valid dataset: all its items are in the stores.
        workspace: Workspace that the vector stores are written to.
        map_fn: Runs the jobs.
        text: Config that the tokens were extracted with; needed by a model with a fine-tuned text encoder.

    Returns:
        The two vector stores.

    Raises:
        ValueError: The features come from other extractors than those that the model was trained on.
    """
    sources = {"image": Store(regions), "caption": Store(tokens)}
    _check_features(model, sources)
    ids = {"image": [image.id for image in dataset.images], "caption": [caption.id for caption in dataset.captions]}
    stores = find_vector_stores(model, workspace)
    row_folders = {"image": stores.image_rows, "caption": stores.caption_rows}
    # The row vectors of a shard are in memory until both stores are written.
    per_shard = VECTORS_PER_SHARD * SHORT_ROW // max(SHORT_ROW, read_model_card(model).model.alignment_dim)
    jobs = []
    with ExitStack() as updates:
        for modality, source in sources.items():
            recipe = make_vector_recipe(model, modality)
            folder = open_or_create_store(workspace.vectors, "vectors", recipe)
            hashes = source.content_hashes(ids[modality])
            items = [Item(name, content_hash) for name, content_hash in zip(ids[modality], hashes, strict=True)]
            plans = updates.enter_context(store_update(folder, items, per_shard))
            log_existing(folder, len(items), plans)
            job = EmbeddingJob(folder, ShardPlan(()), model, source.folder, modality, text)
            row_plans = []
            if row_folders[modality] is not None:
                rows = open_or_create_store(workspace.vectors, "row_vectors", recipe, "int8")
                row_plans = updates.enter_context(store_update(rows, items, per_shard))
                job = replace(job, rows_folder=rows)
            jobs += _make_jobs(job, plans, row_plans)
        list(map_fn(embed_shard, jobs))
    return stores


def _make_jobs(job: EmbeddingJob, plans: Sequence[ShardPlan], row_plans: Sequence[ShardPlan]) -> list[EmbeddingJob]:
    """Make one job per shard of vectors or row vectors; a job writes both where both are missing."""
    row_plan_items = {plan.items for plan in row_plans}
    jobs = [
        replace(job, plan=plan, rows_folder=job.rows_folder if plan.items in row_plan_items else None) for plan in plans
    ]
    plan_items = {plan.items for plan in plans}
    return jobs + [replace(job, plan=plan, writes_vectors=False) for plan in row_plans if plan.items not in plan_items]


def find_vector_stores(model: Path, workspace: Workspace, rerank: int = 0) -> VectorStores:
    """Return the folders of the vector stores of a model; they need not exist.

    Args:
        model: Folder of the model.
        workspace: Workspace of the stores.
        rerank: Number of best hits that a search reranks; the settings of the index have it.
    """
    card = read_model_card(model)
    recipes = [make_vector_recipe(model, modality) for modality in ("image", "caption")]
    images, captions = (store_path(workspace.vectors, "vectors", recipe) for recipe in recipes)
    if not card.model.alignment_dim:
        return VectorStores(images, captions)
    image_rows, caption_rows = (store_path(workspace.vectors, "row_vectors", recipe) for recipe in recipes)
    return VectorStores(images, captions, image_rows, caption_rows, card.alignment_weight, rerank)


def make_vector_recipe(model: Path, modality: str) -> Recipe:
    """Return the recipe of the vector store of a model: of its `image` or its `caption` vectors."""
    return {"model": model.name, "modality": modality}


def _check_features(model: Path, sources: Mapping[str, Store]) -> None:
    card = read_model_card(model)
    for kind, store, recipe in (
        ("regions", sources["image"], card.region_recipe),
        ("tokens", sources["caption"], card.token_recipe),
    ):
        if digest(store.recipe) != recipe:
            raise ValueError(
                f"{model} was trained on {kind}-{recipe}, not on {store.folder.name}, because the extractor of the "
                "plan has changed. Run `tern train`, or restore the extractor settings of the plan."
            )


def embed_shard(job: EmbeddingJob) -> str:
    """Write one shard of a vector store, and that of the row vectors of its items. Returns its file name."""
    batches = _embed_images(job) if job.modality == "image" else _embed_in_torch(job)
    if job.rows_folder is None:
        return write_shard(job.folder, job.plan, (columns for part in batches for columns in _list_vectors(part)))
    parts = list(batches)  # both stores are written from them; codes of 8 bits take little memory
    write_shard(job.rows_folder, job.plan, (columns for part in parts for columns in _list_rows(part)))
    if not job.writes_vectors:
        return job.plan.file
    return write_shard(job.folder, job.plan, (columns for part in parts for columns in _list_vectors(part)))


def _list_vectors(part: Embeddings) -> Iterator[dict[str, np.ndarray] | str]:
    return (find_vector_problem(vector) or {"features": vector[None]} for vector in part.vectors)


def _list_rows(part: Embeddings) -> Iterator[dict[str, np.ndarray] | str]:
    """Yield the row vectors of each item. An item whose vector cannot be searched has none."""
    assert part.rows is not None  # the model has row vectors
    ends = np.cumsum(part.rows.lengths)[:-1]
    codes, weights = np.split(part.rows.codes, ends), np.split(part.rows.weights, ends)
    for vector, item_codes, item_weights in zip(part.vectors, codes, weights, strict=True):
        yield find_vector_problem(vector) or {"features": item_codes, "weights": item_weights}


def _embed_images(job: EmbeddingJob) -> Iterator[Embeddings]:
    """Embed the images of a job with the query side of the model, which needs no torch, or else in torch."""
    side, store = _open_query_side(job.model), Store(job.source)
    if side is None:
        yield from _embed_in_torch(job)
        return
    ids = [item.id for item in job.plan.items]
    for start in range(0, len(ids), IMAGES_PER_WINDOW):
        images = read_image_regions(store, ids[start : start + IMAGES_PER_WINDOW])
        yield side.embed_images(images, in_single_runs=True)


def _embed_in_torch(job: EmbeddingJob) -> Iterator[Embeddings]:
    from tern.model import embed_captions, embed_images  # lazy: torch takes seconds to import

    embed = {"image": embed_images, "caption": embed_captions}[job.modality]
    model, ids = load_trained_model(job.model, job.text), [item.id for item in job.plan.items]
    with one_torch_thread():
        for _, part in embed(model, Store(job.source), ids):
            yield part


@lru_cache(maxsize=1)  # a process opens the graphs once for all jobs
def _open_query_side(model: Path) -> QuerySide | None:
    record = read_query_record(model)
    return None if record is None else QuerySide(model, record, find_text_folder, is_resident=True)


def find_vector_problem(vector: np.ndarray) -> str:
    """Return why a vector (e,) cannot be searched, or an empty text."""
    if not np.isfinite(vector).all():
        return "its vector is not finite: look for infinite or very large values in its features"
    length = float(np.linalg.norm(vector))
    return "" if abs(length - 1) <= NORM_TOLERANCE else f"its vector has length {length:.4g}, not 1"


def list_invalid_vectors(vectors: VectorStores, dataset: Dataset) -> tuple[InvalidRecord, ...]:
    """List the images and captions of a dataset whose vectors cannot be used, with the reason."""
    images, captions = Store(vectors.images).invalid_items, Store(vectors.captions).invalid_items
    names = [image.id for image in dataset.images if image.id in images]
    records = [InvalidRecord(name, images[name]) for name in names]
    names = [caption.id for caption in dataset.captions if caption.id in captions]
    return (*records, *(InvalidRecord(name, captions[name]) for name in names))


@lru_cache(maxsize=1)  # a process loads the model once for all jobs
def load_trained_model(folder: Path, text: TextConfig | None) -> Any:
    """Load a trained model in eval mode.

    Args:
        folder: Folder of the model.
        text: Config of the text encoder; used only if the text encoder was fine-tuned with the model.
    """
    from extractors.text import TextEncoder  # lazy: torch and transformers take seconds to import
    from tern.model import load_model  # lazy: torch takes seconds to import

    encoder = TextEncoder(text) if text and read_model_card(folder).fine_tuned else None
    return load_model(folder, text=encoder)
