"""Embed of `pipeline`."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.datasets import Dataset
from data.io import digest
from data.manifest import Item, open_or_create_store
from data.store import ShardJob, Store, store_update, write_shard
from extractors.config import TextConfig
from extractors.text import TextEncoder
from pipeline.stages.results import MapFn, VectorStores
from pipeline.workspace import Workspace
from tern.card import read_model_card
from tern.model import embed_captions, embed_images, load_model

VECTORS_PER_SHARD = 50_000  # rows; 51 MB a shard at 512 wide in half precision


@dataclass(frozen=True)
class EmbeddingJob(ShardJob):
    """One shard of vectors to make, from the rows of a feature store."""

    model: Path
    source: Path
    modality: str
    text: TextConfig | None = None


def embed_dataset(
    model: Path,
    regions: Path,
    tokens: Path,
    dataset: Dataset,
    workspace: Path,
    each: MapFn = map,
    text: TextConfig | None = None,
) -> VectorStores:
    """Unit vectors of every image and caption that has none of this model yet. Returns the two stores' folders.

    `text` is what the tokens were extracted with, for a model whose text encoder was fine-tuned.

    Raises ValueError if the features are not of the extractors that the model was trained on.
    """
    card, sources = read_model_card(model), {"regions": Store(regions), "tokens": Store(tokens)}
    for kind, recipe in (("regions", card.region_recipe), ("tokens", card.token_recipe)):
        store = sources[kind]
        if digest(store.recipe) != recipe:
            raise ValueError(
                f"{model} was trained on {kind}-{recipe}, not on {store.folder.name}: the plan's extractor has "
                "changed. Train again with `tern train`, or give the plan its old settings."
            )
    folders, jobs = {}, []
    ids = {"image": [image.id for image in dataset.images], "caption": [caption.id for caption in dataset.captions]}
    with ExitStack() as stores:
        for side, store in zip(ids, sources.values(), strict=True):
            folders[side] = open_or_create_store(
                Workspace(workspace).vectors, "vectors", {"model": model.name, "modality": side}
            )
            items = [Item(*pair) for pair in zip(ids[side], store.content_hashes(ids[side]), strict=True)]
            plans = stores.enter_context(store_update(folders[side], items, VECTORS_PER_SHARD))
            jobs += [EmbeddingJob(folders[side], plan, model, store.folder, side, text) for plan in plans]
        list(each(embed_shard, jobs))
    return VectorStores(folders["image"], folders["caption"])


def embed_shard(job: EmbeddingJob) -> str:
    """Make one shard of a vector store; returns its file name."""
    function = {"image": embed_images, "caption": embed_captions}[job.modality]
    blocks = function(load_trained_model(job.model, job.text), Store(job.source), [item.id for item in job.plan.items])
    return write_shard(job.folder, job.plan, ({"features": row[None]} for _, rows in blocks for row in rows))


@lru_cache(maxsize=1)
def load_trained_model(folder: Path, text: TextConfig | None) -> Any:
    """The model of a folder; with its own text encoder, of the kind that `text` says, if that was fine-tuned."""
    encoder = TextEncoder(text) if text and read_model_card(folder).fine_tuned else None
    return load_model(folder, text=encoder)
