"""A workspace of 31,000 images with 36 regions each and 155,000 captions, to measure the search service.

    tern demo
    python -m tests.bench.pipeline.large_world runs/demo FOLDER
    tern serve --plan demo --set workspace=FOLDER

It has the model of the demo, and everything else is drawn from the demo's stores and vectors: the regions of an image
are random regions of all demo images, a vector is that of a demo item with another one and noise added. So the sizes,
the model and the work of a query are those of a large collection. What a query finds means nothing. Needs about 1.2 GB
of disk and 3 minutes.
"""

import argparse
import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.manifest import Item, ShardPlan, open_or_create_store
from data.store import Store, store_update, write_shard
from index.building import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata import Row
from index.search import Index

IMAGES, REGIONS, CAPTIONS_PER_IMAGE = 31_000, 36, 5
IMAGES_PER_SHARD = 2_000
OTHER, NOISE = 0.5, 0.4  # lengths of another item's vector and of noise that are added to a vector of length 1
QUERIES = 2_000


def make_large_world(demo: Path, folder: Path, num_images: int = IMAGES) -> Path:
    """Make the workspace in a folder that does not exist, from the finished workspace of the demo.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    for name in ("models", "dataset"):
        shutil.copytree(demo / name, folder / name)
    shutil.copyfile(demo / ".tern-workspace.json", folder / ".tern-workspace.json")
    names = [f"{number:06d}.jpg" for number in range(num_images)]
    with Index.open(demo / "index") as index:
        with Store(demo / "stores" / index.manifest.provenance["regions"]) as store:
            _write_regions(folder / "stores", store, names)
        build_index(IndexConfig(), _make_inputs(index, names), folder / "index")
    return folder


def _write_regions(root: Path, demo: Store, names: Sequence[str]) -> None:
    folder = open_or_create_store(root, "regions", demo.recipe)
    columns = {name: demo.read(name, demo.ids) for name in demo.fields}
    class_ids = columns["class_ids"]
    whole_images, regions = np.flatnonzero(class_ids < 0), np.flatnonzero(class_ids >= 0)
    items = [Item(name, _hash(name)) for name in names]

    def iter_rows(plan: ShardPlan) -> Iterator[dict[str, Any]]:
        for item in plan.items:
            rng = np.random.default_rng(int(Path(item.id).stem))
            rows = np.concatenate([rng.choice(whole_images, 1), rng.choice(regions, REGIONS)])
            size = columns["size"][rng.integers(len(columns["size"]))]
            yield {name: values[rows] for name, values in columns.items() if name != "size"} | {"size": size}

    with store_update(folder, items, IMAGES_PER_SHARD) as plans:
        for plan in plans:
            write_shard(folder, plan, iter_rows(plan))


def _make_inputs(demo: Index, names: Sequence[str]) -> IndexInputs:
    vectors, rows = {}, {}
    for kind in ("image", "caption"):
        collection = demo.collection(kind)
        keys = np.concatenate([shard.keys for shard in collection.vectors.shards])
        vectors[kind] = collection.vectors.get(keys).astype(np.float32)
        row_by_key = collection.rows.by_key(keys.tolist())
        rows[kind] = [row_by_key[key] for key in keys.tolist()]
    rng = np.random.default_rng(0)
    parents = rng.integers(0, len(rows["image"]), len(names))
    image_rows = [
        rows["image"][parent]._replace(id=name, image_id=name, content_hash=_hash(name), key=None)
        for name, parent in zip(names, parents, strict=True)
    ]
    caption_parents = rng.integers(0, len(rows["caption"]), CAPTIONS_PER_IMAGE * len(names))
    caption_rows = [
        image_rows[number // CAPTIONS_PER_IMAGE]._replace(
            kind="caption",
            id=f"{number:07d}",
            text=rows["caption"][parent].text,
            content_hash=_hash(str(number)),
        )
        for number, parent in enumerate(caption_parents.tolist())
    ]
    collections = {
        "image": _make_collection(image_rows, _draw_near(vectors["image"], parents, rng)),
        "caption": _make_collection(caption_rows, _draw_near(vectors["caption"], caption_parents, rng)),
    }
    queries = {"image": vectors["caption"][:QUERIES], "caption": vectors["image"][:QUERIES]}
    return IndexInputs(collections, queries, demo.manifest.provenance)


def _make_collection(rows: list[Row], vectors: np.ndarray) -> Collection:
    return Collection([row.id for row in rows], vectors, rows)


def _draw_near(vectors: np.ndarray, parents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one float16 unit vector near each of `vectors[parents]`."""
    others = vectors[rng.integers(0, len(vectors), len(parents))]
    noise = rng.standard_normal(others.shape, np.float32) * np.float32(NOISE / others.shape[1] ** 0.5)
    drawn = vectors[parents] + np.float32(OTHER) * others + noise
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    """Make the workspace, and print how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="finished workspace of `tern demo`")
    parser.add_argument("folder", type=Path, help="folder of the new workspace")
    parser.add_argument("--images", type=int, default=IMAGES)
    arguments = parser.parse_args()
    start = time.perf_counter()
    make_large_world(arguments.demo, arguments.folder, arguments.images)
    print(f"{arguments.folder}: {arguments.images:,} images, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
