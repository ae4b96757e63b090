"""The last stage: all vectors of a model, with what their ids stand for, into a published version of the index."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.records import Caption, Dataset, Image
from data.store import Store
from index import (
    Collection,
    GateConfig,
    HeldOutQueries,
    IncompatibleUpdateError,
    Index,
    IndexConfig,
    MaintenanceConfig,
    build_index,
    compact_index,
    find_due_maintenance,
    make_gate,
    update_index,
)
from index.manifest import read_version_manifest
from pipeline.stages import HELD_OUT, VectorStores, held_out_ids, splits_with_captions

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
    return build_index(config, collections, _queries(asked), workspace / "index", provenance, gate=judge)


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
    root, (collections, asked) = workspace / "index", _inputs(vectors, dataset, regions)
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
    with Index.open(workspace / "index", version) as found:
        return found.path, workspace / "models" / read_provenance(found)["model"]


def read_provenance(index: Index) -> dict[str, str]:
    """Names of the model and the stores that an index is of. Raises ValueError if its vectors came from elsewhere."""
    names = index.manifest["provenance"]
    if not {"model", "regions", "tokens"} <= names.keys():
        raise ValueError(
            f"version {index.version} of {index.root} was not made by a plan: nothing says of which model its vectors "
            "are. Build one with `tern index`."
        )
    return names


def list_models(workspace: Path) -> list[str]:
    """Names of the workspace's trained models."""
    return sorted(path.parent.name for path in workspace.glob("models/*/model.json"))


def find_model(workspace: Path, name: str) -> Path:
    """The folder of one of the workspace's models. Raises FileNotFoundError that names those there are."""
    there = list_models(workspace)
    if name not in there:
        raise FileNotFoundError(f"{workspace} has no trained model {name!r}; there are {', '.join(there) or 'none'}.")
    return workspace / "models" / name


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


def _collection(dataset: Dataset, store: Store, kind: str, sizes: dict[str, tuple[int, int]]) -> Collection:
    """Every item of a kind that has a vector."""
    rows = MetadataRows(dataset, store, kind, sizes)
    return Collection(ids=rows.ids, vectors=partial(store.read, "features"), metadata=rows)


def _sizes(regions: Path | None, dataset: Dataset) -> dict[str, tuple[int, int]]:
    """Image id -> width and height in pixels, as far as they are stored."""
    if regions is None:
        return {}
    store = Store(regions)
    names = [image.id for image in dataset.images if image.id in store]
    return dict(zip(names, map(tuple, store.read("size", names).tolist()), strict=True)) if names else {}


class MetadataRows(Sequence[dict[str, Any]]):
    """The metadata of every item of a kind that has a vector, each row made when it is asked for."""

    def __init__(self, dataset: Dataset, store: Store, kind: str, sizes: dict[str, tuple[int, int]]):
        self._dataset, self._kind, self._sizes = dataset, kind, sizes
        items: Sequence[Image | Caption] = dataset.images if kind == "image" else dataset.captions
        self._items = [item for item in items if item.id in store]
        self.ids = [item.id for item in self._items]
        self._sources = store.content_hashes(self.ids)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> dict[str, Any]:
        item = self._items[place]
        image = item if isinstance(item, Image) else self._dataset.images_by_id[item.image_id]
        text = item.text if isinstance(item, Caption) else None
        path = image.path.relative_to(self._dataset.root).as_posix()
        own = {
            "kind": self._kind,
            "id": item.id,
            "image_id": image.id,
            "text": text,
            "content_hash": self._sources[place],
        }
        width, height = self._sizes.get(image.id, (None, None))
        return {**own, "path": path, "split": image.split, "width": width, "height": height}


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
