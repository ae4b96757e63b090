"""The last stage: all vectors of a model, with what their ids stand for, into a published version of the index."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.datasets import Dataset
from data.store import Store
from index.building import IncompatibleUpdateError, build_index, compact_index, find_due_maintenance, update_index
from index.collection import Collection
from index.config import GateConfig, IndexConfig, MaintenanceConfig
from index.quality import HeldOutQueries, make_gate
from index.search import Index
from index.versions import read_version_manifest
from pipeline.stages.dataset import HELD_OUT, held_out_ids, splits_with_captions
from pipeline.stages.index_rows import _collection, _sizes
from pipeline.stages.origin import read_origin
from pipeline.stages.results import VectorStores
from pipeline.workspace import Workspace

log = logging.getLogger(__name__)


def publish_full_index(
    config: IndexConfig,
    vectors: VectorStores,
    dataset: Dataset,
    workspace: Path,
    provenance: dict[str, Any],
    regions: Path | None = None,
    gate: GateConfig | None = None,
) -> Path:
    """Build and publish a version of the index over all vectors. Returns the path of its manifest.

    `regions` is the store that has the pictures' sizes, for filters over width and height. Recall is measured on
    held-out queries of the other kind: captions look for images, images for captions.

    Raises RefusedError if the version does not pass the gate (`index.gate`; None: there is none): it is kept, and what
    was served still is.
    """
    collections, asked = _inputs(vectors, dataset, regions)
    judge = None if gate is None else make_gate(gate, asked, collections, config)
    return build_index(config, collections, _queries(asked), Workspace(workspace).index, provenance, gate=judge)


def publish_index_update(
    config: IndexConfig,
    vectors: VectorStores,
    dataset: Dataset,
    workspace: Path,
    provenance: dict[str, Any],
    regions: Path | None = None,
    gate: GateConfig | None = None,
    *,
    maintenance: MaintenanceConfig,
    version: int | None = None,
    allow_full_build: bool = False,
    on_message: Callable[[str], None] = log.info,
) -> Path:
    """Bring the published index to what there is, by a delta, and in order if it needs that. Returns its manifest.

    upkeep   when shards are compacted, and centroids trained anew (which is a build)
    version  to start from, in place of the published one
    say      is told when more is done than a delta, and why
    whole    build a version of its own where a delta may not be: with another model, other settings, or none before

    Raises GenerationError or FileNotFoundError where a delta may not be, unless `whole`; RefusedError as `build_index`.
    """
    root, (collections, asked) = Workspace(workspace).index, _inputs(vectors, dataset, regions)
    judge = None if gate is None else make_gate(gate, asked, collections, config)
    build_whole = partial(build_index, config, collections, _queries(asked), root, provenance, gate=judge)
    try:
        path = update_index(config, collections, root, provenance, gate=judge, version=version)
    except (IncompatibleUpdateError, FileNotFoundError) as error:
        if not allow_full_build:
            raise
        on_message(f"a whole index is built: {error}")
        return build_whole()
    if (needed := find_due_maintenance(read_version_manifest(root), maintenance)) is None:
        return path
    what, why = needed
    on_message(f"index: {what}, since {why}")
    return compact_index(root, gate=judge) if what == "compact" else build_whole()


def find_served_version(workspace: Path, version: int | None = None) -> tuple[Path, Path]:
    """(manifest of a version, by default the published one; folder of the model that its vectors are of).

    Raises ValueError for a version whose vectors came from elsewhere.
    """
    folders = Workspace(workspace)
    with Index.open(folders.index, version) as index:
        return index.path, folders.models / read_origin(index).model


def _inputs(
    vectors: VectorStores, dataset: Dataset, regions: Path | None
) -> tuple[dict[str, Collection], dict[str, HeldOutQueries]]:
    """What is indexed, and the queries to measure and to judge with."""
    stores = {"image": Store(vectors.images), "caption": Store(vectors.captions)}
    sizes = _sizes(regions, dataset)
    collections = {kind: _collection(dataset, store, kind, sizes) for kind, store in stores.items()}
    return collections, {"image": _asked(dataset, stores, "caption"), "caption": _asked(dataset, stores, "image")}


def _queries(asked: dict[str, HeldOutQueries]) -> dict[str, np.ndarray]:
    return {kind: some.vectors for kind, some in asked.items()}


def _asked(dataset: Dataset, stores: dict[str, Store], kind: str) -> HeldOutQueries:
    """The held-out items of one kind and their right answers; all items where no held-out split has captions."""
    splits = splits_with_captions(dataset, HELD_OUT) or splits_with_captions(
        dataset, tuple(dataset.count_images_by_split())
    )
    place = {"image": 0, "caption": 1}[kind]
    ids = [name for split in splits for name in held_out_ids(dataset, stores["image"], split)[place]]
    if kind == "caption":
        right = [{dataset.image_id_by_caption_id[name]} for name in ids]
    else:
        right = [{caption.id for caption in dataset.captions_by_image_id[name]} for name in ids]
    return HeldOutQueries(stores[kind].read("features", ids).astype("float32"), right)
