"""The last stage: all vectors of a model, with what their ids stand for, into a published version of the index."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.records import Caption, Dataset, Image
from data.store import Store
from index import Collection, IndexConfig, build
from pipeline.stages import HELD_OUT, Vectors, held_out, with_captions


def build_index(
    config: IndexConfig,
    vectors: Vectors,
    dataset: Dataset,
    workspace: Path,
    provenance: dict[str, Any],
    regions: Path | None = None,
) -> Path:
    """Build and publish a version of the index over all vectors. Returns the path of its manifest.

    `regions` is the store that has the pictures' sizes, for filters over width and height. Recall is measured on
    held-out queries of the other kind: captions look for images, images for captions.
    """
    stores = {"image": Store(vectors.images), "caption": Store(vectors.captions)}
    sizes = _sizes(regions, dataset)
    collections = {kind: _collection(store, _rows(dataset, store, kind, sizes)) for kind, store in stores.items()}
    queries = {"image": _queries(dataset, stores, "caption"), "caption": _queries(dataset, stores, "image")}
    return build(config, collections, queries, workspace / "index", provenance)


def _collection(store: Store, rows: list[dict[str, Any]]) -> Collection:
    ids = [row["id"] for row in rows]
    return Collection(ids=ids, vectors=partial(store.read, "features"), rows=rows)


def _sizes(regions: Path | None, dataset: Dataset) -> dict[str, tuple[int, int]]:
    """Image id -> width and height in pixels, as far as they are stored."""
    if regions is None:
        return {}
    store = Store(regions)
    names = [image.id for image in dataset.images if image.id in store]
    return dict(zip(names, map(tuple, store.read("size", names).tolist()), strict=True)) if names else {}


def _rows(dataset: Dataset, store: Store, kind: str, sizes: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """The metadata of every item of a kind that has a vector."""
    items = dataset.images if kind == "image" else dataset.captions
    known = [item for item in items if item.id in store]
    return [
        _row(dataset, kind, item, source, sizes)
        for item, source in zip(known, store.hashes([item.id for item in known]), strict=True)
    ]


def _row(
    dataset: Dataset, kind: str, item: Image | Caption, source: str, sizes: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    image = item if isinstance(item, Image) else dataset.image[item.image_id]
    text = item.text if isinstance(item, Caption) else None
    path = image.path.relative_to(dataset.root).as_posix()
    own = {"kind": kind, "id": item.id, "image_id": image.id, "text": text, "source": source}
    width, height = sizes.get(image.id, (None, None))
    return {**own, "path": path, "split": image.split, "width": width, "height": height}


def _queries(dataset: Dataset, stores: dict[str, Store], kind: str) -> np.ndarray:
    """Vectors of the held-out items of one kind; of all items where no held-out split has captions."""
    splits = with_captions(dataset, HELD_OUT) or with_captions(dataset, tuple(dataset.counts()))
    place = {"image": 0, "caption": 1}[kind]
    ids = [name for split in splits for name in held_out(dataset, stores["image"], split)[place]]
    return stores[kind].read("features", ids).astype("float32")
