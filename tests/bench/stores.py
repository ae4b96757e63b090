"""Reading random batches of features: one .npy an image against the store."""

from pathlib import Path

import numpy as np

from data.shards import Item, commit, open_folder, plan_shards, write_shard
from data.store import Store
from tests.bench.common import cpu, show


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
    rest = {
        "boxes": boxes,
        "class_ids": flat,
        "scores": flat,
        "attr_ids": flat,
        "attr_scores": flat,
        "size": np.array([640, 480]),
    }
    place = {name: number for number, name in enumerate(names)}
    for plan in plan_shards(target, [Item(name, "0" * 64) for name in names], 250):
        commit(target, [write_shard(target, plan, ({"features": features[place[i.id]], **rest} for i in plan.items))])
    store = Store(target)
    batches = [list(rng.choice(names, 128, replace=False)) for _ in range(8)]
    npy = cpu(lambda: [np.stack([np.load(folder / "npy" / f"{n}.npy") for n in batch]) for batch in batches]) / 8
    ours = cpu(lambda: [store.read("features", batch) for batch in batches]) / 8
    show("reading a random batch of 128 images (warm)", [("one .npy an image", npy, ""), ("the store", ours, "")])
