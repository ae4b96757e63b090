"""Cost of a query against unit vectors of an index."""

import time
from pathlib import Path

import numpy as np

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata.lookup import MetadataLookup
from index.metadata.schema import Row
from index.metadata.tables import build_table, write_lookup
from index.search.index import Index
from tests.bench.common import cpu, show


def make_unit_vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    """Return unit vectors of intrinsic dimension 64 around 3,000 overlapping centers; neighbors are in many lists."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    centers, projection = fixed.normal(size=(3000, 64)), fixed.normal(size=(64, dim))
    vectors = (centers[rng.integers(0, 3000, rows)] + 1.2 * rng.normal(size=(rows, 64))) @ projection
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def look_up(folder: Path) -> None:
    """Measure reading ten metadata rows by key from four shards with 300,000 rows in total."""
    metadata = (Row("image", f"{i:06d}.jpg", path=f"images/{i:06d}.jpg", split="train") for i in range(300_000))
    table = build_table("image", metadata)
    paths = [folder / f"{i}.sqlite" for i in range(4)]
    for i, path in enumerate(paths):
        write_lookup(path, table.filter(table["key"].to_numpy() % 4 == i))
    keys = np.random.default_rng(0).choice(table["key"].to_numpy(), (100, 10), replace=False).tolist()
    rows = MetadataLookup(paths, np.empty(0, np.int64))
    seconds = cpu(lambda: [rows.by_key(batch) for batch in keys]) / len(keys)
    show("10 rows of 300,000 by key", [("SQLite, 4 shards", seconds, "to stay under 1 ms")])


def search(folder: Path) -> None:
    """Measure a query against 30,000 x 512 vectors: exact search in numpy, and a published index."""
    vectors, queries = make_unit_vectors(30_000, 512, 1), make_unit_vectors(256, 512, 2)
    ids = [f"{i}.jpg" for i in range(len(vectors))]
    collection = Collection(ids=ids, vectors=vectors, metadata=[Row("image", name) for name in ids])
    start = time.process_time()
    build_index(IndexConfig(), IndexInputs({"image": collection}, {"image": queries}), folder / "index")
    seconds = time.process_time() - start
    with Index.open(folder / "index") as index:
        manifest = index.manifest.collections["image"]
        for size in (1, 64):
            batch = queries[:size]
            exact_seconds = cpu(lambda b=batch: np.argpartition(-(b @ vectors.T), 10, axis=1)[:, :10]) / size
            search_seconds = cpu(lambda b=batch: index.search(b, 10)) / size
            note = f"recall@10 {manifest.recall.recall:.3f}, {manifest.search.nprobe} of {manifest.nlist} lists"
            rows = [("exact, numpy", exact_seconds, "recall@10 1"), ("index, 4 shards", search_seconds, note)]
            show(f"one query, batch of {size} (build {seconds:.1f} CPU s)", rows)
    look_up(folder)
