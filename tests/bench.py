"""`make bench`: tables of what things cost, side by side in one run: CPU seconds of this process. They decide no test.

Data are the demo's: its detector, MiniLM, a model and an index of its size. Read ratios, not single figures.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data.demo import compose, paint
from data.shards import Item, commit, open_folder, plan_shards, write_shard
from data.store import Store
from extractors.regions import RegionConfig, RegionExtractor
from extractors.text import TextConfig, TextExtractor
from index import Collection, Index, IndexConfig, build
from tern.metrics import retrieval_metrics

REPEATS = 5


def cpu(function: Callable[[], object]) -> float:
    """Median CPU seconds of a call, after one that warms up."""
    function()
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        function()
        spent.append(time.process_time() - began)
    return float(np.median(spent))


def show(title: str, rows: list[tuple[str, float, str]]) -> None:
    table = Table("what", "CPU ms", "of the first", "", title=title, title_justify="left")
    for name, seconds, note in rows:
        table.add_row(name, f"{1000 * seconds:,.2f}", f"{seconds / rows[0][1]:.2f}", note)
    Console().print(table)


def stores(folder: Path) -> None:
    """Batches of 128 images of 36 x 2048 in half precision, from 1,000: one .npy an image against the store."""
    rng = np.random.default_rng(0)
    names = [f"image {i}.jpg" for i in range(1000)]
    features = np.maximum(rng.normal(size=(1000, 36, 2048)).astype("float16"), 0)
    boxes, flat = np.ones((36, 4), "float32"), np.zeros(36)
    (folder / "npy").mkdir()
    for name, rows in zip(names, features, strict=True):
        np.save(folder / "npy" / f"{name}.npy", rows)
    target = open_folder(folder, "regions", {"bench": 1})
    rest = {"boxes": boxes, "class_ids": flat, "scores": flat, "size": np.array([640, 480])}
    place = {name: number for number, name in enumerate(names)}
    for plan in plan_shards(target, [Item(name, "0" * 64) for name in names], 250):
        commit(target, [write_shard(target, plan, ({"features": features[place[i.id]], **rest} for i in plan.items))])
    store = Store(target)
    batches = [list(rng.choice(names, 128, replace=False)) for _ in range(8)]
    npy = cpu(lambda: [np.stack([np.load(folder / "npy" / f"{n}.npy") for n in batch]) for batch in batches]) / 8
    ours = cpu(lambda: [store.read("features", batch) for batch in batches]) / 8
    show("reading a random batch of 128 images (warm)", [("one .npy an image", npy, ""), ("the store", ours, "")])


def extraction() -> None:
    """One image, one caption: the demo's detector and MiniLM."""
    pictures = [paint(compose(7, i))[0] for i in range(4)]
    rows = []
    for dtype in ("float32", "bfloat16"):
        extractor = RegionExtractor(RegionConfig(model="demo", weights="demo", dtype=dtype))
        rows.append((f"demo detector, {dtype}", cpu(lambda e=extractor: [e([p]) for p in pictures]) / 4, "an image"))
    show("region features", rows)
    texts = ["two dogs are running along the street in front of a woman with an umbrella"] * 64
    extractor = TextExtractor(TextConfig(model="minilm"))
    rows = [("one at a time", cpu(lambda: [extractor([t]) for t in texts[:8]]) / 8, "a caption")]
    rows.append(("batches of 64", cpu(lambda: extractor(texts)) / 64, "a caption"))
    show("token features", rows)


def unit(rows: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors of 64 true dimensions around 3,000 centres that overlap: neighbours spread over many lists."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    centres, turn = fixed.normal(size=(3000, 64)), fixed.normal(size=(64, dim))
    found = (centres[rng.integers(0, 3000, rows)] + 1.2 * rng.normal(size=(rows, 64))) @ turn
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype("float32")


def search(folder: Path) -> None:
    """A query against 30,000 x 512: exact in numpy against the published index."""
    vectors, queries = unit(30_000, 512, 1), unit(256, 512, 2)
    ids = [f"{i}.jpg" for i in range(len(vectors))]
    collection = Collection(ids=ids, vectors=vectors, rows=[{"id": name} for name in ids])
    began = time.process_time()
    build(IndexConfig(), {"image": collection}, {"image": queries}, folder / "index")
    spent = time.process_time() - began
    with Index.open(folder / "index") as index:
        about = index.manifest["collections"]["image"]
        for size in (1, 64):
            batch = queries[:size]
            exact = cpu(lambda b=batch: np.argpartition(-(b @ vectors.T), 10, axis=1)[:, :10]) / size
            ours = cpu(lambda b=batch: index.search(b, 10)) / size
            note = f"recall@10 {about['recall']['recall']:.3f}, {about['nprobe']} of {about['nlist']} lists"
            rows = [("exact, numpy", exact, "recall@10 1"), ("index, 4 shards", ours, note)]
            show(f"a query, batch of {size} (build {spent:.1f} CPU s)", rows)


def metrics() -> None:
    """Both directions with ranks at Flickr30k's size."""
    images, captions = unit(1000, 1024, 3), unit(5000, 1024, 4)
    owners = [str(i // 5) for i in range(5000)]
    ours = cpu(lambda: retrieval_metrics(images, [str(i) for i in range(1000)], captions, owners))
    show("recall and ranks, 1,000 x 5,000, both directions", [("ours", ours, "")])


def main() -> None:
    """Print all tables."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        stores(folder)
        extraction()
        search(folder)
        metrics()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
