"""A workspace of 31,000 images with 36 regions each and 155,000 captions, to measure the search service.

    tern demo
    python -m tests.bench.pipeline.large_world runs/demo FOLDER
    python -m tests.bench.pipeline.large_world runs/demo FOLDER --time
    tern serve --plan demo --set workspace=FOLDER

It has the model of the demo, and everything else is drawn from the demo's stores and vectors: the regions of an image
are random regions of all demo images with their row vectors, a vector is that of a demo item with another one and noise
added. So the sizes, the model and the work of a query are those of a large collection. What a query finds means
nothing. Needs about 1.4 GB of disk and 3 minutes. `--time` measures typed queries in the folder, with one thread.
"""

import argparse
import hashlib
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from data.alignment import RowVectors
from data.manifest import Item, ShardPlan, open_or_create_store
from data.store import Store, store_update, write_shard
from index.building import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata import Row
from index.search import Index
from pipeline.plans import load_plan
from pipeline.search import Searcher, make_text_query
from pipeline.search.query import SearchRequest

IMAGES, REGIONS, CAPTIONS_PER_IMAGE = 31_000, 36, 5
IMAGES_PER_SHARD = 2_000
OTHER, NOISE = 0.5, 0.4  # lengths of another item's vector and of noise that are added to a vector of length 1
QUERIES = 2_000
WARM_UP = 20  # queries that `--time` does not count


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
            inputs = _make_inputs(index, store, names)
        build_index(IndexConfig(), inputs, folder / "index")
    return folder


def _write_regions(root: Path, demo: Store, names: Sequence[str]) -> None:
    folder = open_or_create_store(root, "regions", demo.recipe)
    columns = {name: demo.read(name, demo.ids) for name in demo.fields}
    class_ids = columns["class_ids"]
    items = [Item(name, _hash(name)) for name in names]

    def iter_rows(plan: ShardPlan) -> Iterator[dict[str, Any]]:
        for item in plan.items:
            rows = _choose_regions(item.id, class_ids)
            size = columns["size"][int(Path(item.id).stem) % len(columns["size"])]
            yield {name: values[rows] for name, values in columns.items() if name != "size"} | {"size": size}

    with store_update(folder, items, IMAGES_PER_SHARD) as plans:
        for plan in plans:
            write_shard(folder, plan, iter_rows(plan))


def _choose_regions(name: str, class_ids: np.ndarray) -> np.ndarray:
    """Choose the regions of an image among those of the demo: the whole image and `REGIONS` others."""
    rng = np.random.default_rng(int(Path(name).stem))
    whole_images, regions = np.flatnonzero(class_ids < 0), np.flatnonzero(class_ids >= 0)
    return np.concatenate([rng.choice(whole_images, 1), rng.choice(regions, REGIONS)])


def _make_inputs(demo: Index, store: Store, names: Sequence[str]) -> IndexInputs:
    vectors, rows, row_vectors = {}, {}, {}
    for kind in ("image", "caption"):
        collection = demo.collection(kind)
        keys = np.concatenate([shard.keys for shard in collection.vectors.shards])
        vectors[kind] = collection.vectors.get(keys).astype(np.float32)
        row_vectors[kind] = None if collection.row_vectors is None else collection.row_vectors.get(keys)
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
    image_row_vectors, caption_row_vectors = row_vectors["image"], row_vectors["caption"]
    if image_row_vectors is not None and caption_row_vectors is not None:
        image_row_vectors = _choose_row_vectors(demo, store, names)
        caption_row_vectors = caption_row_vectors.select(caption_parents)
    collections = {
        "image": _make_collection(image_rows, _draw_near(vectors["image"], parents, rng), image_row_vectors),
        "caption": _make_collection(
            caption_rows, _draw_near(vectors["caption"], caption_parents, rng), caption_row_vectors
        ),
    }
    queries = {"image": vectors["caption"][:QUERIES], "caption": vectors["image"][:QUERIES]}
    found = {"image": row_vectors["caption"], "caption": row_vectors["image"]}
    query_rows = {kind: rows.select(np.arange(len(queries[kind]))) for kind, rows in found.items() if rows is not None}
    alignment = demo.collection("image").manifest.alignment
    weight = 0.0 if alignment is None else alignment.alignment_weight
    return IndexInputs(collections, queries, demo.manifest.provenance, query_rows=query_rows, alignment_weight=weight)


def _choose_row_vectors(demo: Index, store: Store, names: Sequence[str]) -> RowVectors:
    """Return the row vectors of the regions that `_write_regions` chooses for each image."""
    collection = demo.collection("image")
    assert collection.row_vectors is not None, "the model has row vectors"
    key_by_id = {row.id: row.key for row in collection.rows.by_id(store.ids).values()}
    found = collection.row_vectors.get(np.array([key_by_id[name] for name in store.ids]))
    class_ids, count = store.read("class_ids", store.ids), 1 + REGIONS
    assert len(class_ids) == len(found.codes), "the index has a row vector of each region"
    rows = np.concatenate([_choose_regions(name, class_ids) for name in names])
    weights = found.weights[rows].astype(np.float32).reshape(-1, count)
    weights /= weights.sum(axis=1, keepdims=True)
    lengths = np.full(len(names), count, np.int64)
    return RowVectors(found.codes[rows], weights.reshape(-1).astype(np.float16), lengths)


def _make_collection(rows: list[Row], vectors: np.ndarray, row_vectors: RowVectors | None) -> Collection:
    position = {row.id: number for number, row in enumerate(rows)}

    def read_rows(ids: list[str]) -> RowVectors:
        assert row_vectors is not None, "it is asked for rows only if there are some"
        return row_vectors.select([position[name] for name in ids])

    return Collection([*position], vectors, rows, None if row_vectors is None else read_rows)


def _draw_near(vectors: np.ndarray, parents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one float16 unit vector near each of `vectors[parents]`."""
    others = vectors[rng.integers(0, len(vectors), len(parents))]
    noise = rng.standard_normal(others.shape, np.float32) * np.float32(NOISE / others.shape[1] ** 0.5)
    drawn = vectors[parents] + np.float32(OTHER) * others + noise
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def time_queries(folder: Path, count: int = 750) -> None:
    """Print wall-clock and CPU milliseconds of single typed queries with 10 hits: captions, each once."""
    with closing(Searcher(load_plan("demo", (f"workspace={folder}",)))) as searcher:
        searcher.load_models()
        lookups = searcher.index.collection("caption").rows.lookups
        lines = (line for lookup in lookups for line in lookup.query("SELECT text FROM items", ()))
        texts = list(dict.fromkeys(text for (text,) in lines))[: WARM_UP + count]
        for explain in (False, True):
            print(
                f"{'with' if explain else 'without'} words and regions, {len(texts) - WARM_UP} queries: ms, p50 and p99"
            )
            for stage, seconds in _time_stages(searcher, texts, explain).items():
                p50, p99 = 1000 * np.percentile(seconds[WARM_UP:], [50, 99])
                print(f"  {stage:<10} {p50:6.1f} {p99:6.1f}")


def _time_stages(searcher: Searcher, texts: Sequence[str], explain: bool) -> dict[str, list[float]]:
    stages: dict[str, list[float]] = defaultdict(list)
    for text in texts:
        wall, cpu = time.perf_counter(), time.process_time()
        request = SearchRequest(make_text_query(text), 10, explain=explain)
        searcher.answer([request], lambda stage, seconds: stages[stage].append(seconds))
        stages["all, CPU"].append(time.process_time() - cpu)
        stages["all"].append(time.perf_counter() - wall)
    return stages


def main() -> None:
    """Make the workspace, and print how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="finished workspace of `tern demo`")
    parser.add_argument("folder", type=Path, help="folder of the new workspace")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--time", action="store_true", help="measure typed queries in the folder, which exists")
    arguments = parser.parse_args()
    if arguments.time:
        time_queries(arguments.folder)
        return
    start = time.perf_counter()
    make_large_world(arguments.demo, arguments.folder, arguments.images)
    print(f"{arguments.folder}: {arguments.images:,} images, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
