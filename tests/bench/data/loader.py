"""Whether reading is as fast as training: read the batches of a training from stores, without computing anything."""

import os
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data.manifest.manifest import open_or_create_store
from data.manifest.schema import Item
from data.store.loader import prefetch_map
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit, plan_shards
from tern.batching.plan import plan_batches
from tern.batching.read import BatchReader
from tern.training.trainer import PREFETCH

IMAGES, REGIONS, WIDTH = 2048, 36, 2048
CAPTIONS, WORDS, TOKEN = 2, (8, 24), 768  # captions per image; minimum and maximum tokens per caption; width of a token
FLICKR30K = 29_000  # training images, each once per epoch
ROUNDS = 3


def loader(folder: Path) -> None:
    """Measure batches read ahead by two threads, as in training; from the second round on the files are cached."""
    regions, tokens = _write(folder)
    captions_of = {name: [f"{name}#{c}" for c in range(CAPTIONS)] for name in regions.ids}
    sources = BatchReader(regions, tokens, region_drop=0.2, token_drop=0.1, groups=3)
    table = Table("batch", "batches per second", "CPU ms per batch", "Flickr30k, s per epoch", title=loader.__doc__)
    for images in (128, 1024):
        measured = [_round(sources, plan_batches(captions_of, images, CAPTIONS, 0, k)) for k in range(ROUNDS)]
        seconds, cpu = np.median(measured, axis=0)
        steps = -(-FLICKR30K // images)
        name = f"{images} images, {CAPTIONS * images} captions"
        table.add_row(name, f"{1 / seconds:.1f}", f"{1000 * cpu:.0f}", f"{steps * seconds:.0f}")
    Console(width=120).print(table)


def _round(sources: BatchReader, plans: list) -> tuple[float, float]:
    """Measure wall seconds and CPU seconds (all threads) per batch."""
    start, cpu = time.perf_counter(), time.process_time()
    steps = prefetch_map(
        lambda numbered: sources.read(numbered[1], np.random.default_rng(numbered[0])),
        enumerate(plans),
        prefetch=PREFETCH,
    )
    for step in steps:
        del step
    return (time.perf_counter() - start) / len(plans), (time.process_time() - cpu) / len(plans)


def _write(folder: Path) -> tuple[Store, Store]:
    rng, flat = np.random.default_rng(0), np.zeros(REGIONS)
    boxes = np.tile([0.0, 0.0, 64.0, 64.0], (REGIONS, 1))
    other_columns = {"boxes": boxes, "class_ids": flat, "scores": flat + 0.5, "attr_ids": flat, "attr_scores": flat}
    names = [f"{k}.jpg" for k in range(IMAGES)]
    features = rng.normal(size=(64, REGIONS, WIDTH)).astype("float16")

    def image(name: str) -> dict:
        return {"features": features[int(name[:-4]) % 64], **other_columns, "size": np.array([640, 480])}

    def caption(name: str) -> dict:
        count = int(rng.integers(*WORDS))
        rows = rng.normal(size=(count, TOKEN)).astype("float16")
        return {"features": rows, "token_ids": np.arange(count), "full_length": count}

    stores = []
    for kind, ids, make in (
        ("regions", names, image),
        ("tokens", [f"{name}#{c}" for name in names for c in range(CAPTIONS)], caption),
    ):
        target = open_or_create_store(folder, kind, {"bench": 1})
        plans = plan_shards(target, [Item(name, "0" * 64) for name in ids], 512)
        commit(target, [write_shard(target, plan, (make(item.id) for item in plan.items)) for plan in plans])
        stores.append(Store(target))
    os.sync()
    return stores[0], stores[1]
