"""Publish versions with known exact results and search them continuously, for the tests of hot reload and faults."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import GateConfig, IndexConfig
from index.quality.checks import GateQueries
from index.quality.gate import make_gate
from index.search.hot_reload import HotReloader
from tests.helpers.index_world import make

CONFIG = IndexConfig(nlist=1, shards=2)  # exact search
K = 5


def referenced_hashes(root: Path) -> set[str]:
    """Return every object hash in every manifest, found in the raw JSON."""

    def walk(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            if {"sha256", "bytes"} == set(part):
                yield part["sha256"]
            for inner in part.values():
                yield from walk(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from walk(inner)

    return {name for path in root.glob("versions/*.json") for name in walk(json.loads(path.read_text()))}


def publish(root: Path, seed: int, gated: bool = False) -> None:
    """Build and publish the vectors of a seed."""
    collections, queries = make(seed, images=60)
    held_out = {kind: GateQueries(queries[kind]) for kind in collections}
    gate = make_gate(GateConfig(max_sampled_rows=20), held_out, collections, CONFIG) if gated else None
    build_index(CONFIG, IndexInputs(collections, queries, {"seed": seed}), root, gate=gate)


def first_images(seed: int, images: int) -> dict[str, Collection]:
    """Return the first images of a seed and their captions."""
    counts = {"image": images, "caption": 2 * images}
    return {
        kind: Collection(c.ids[: counts[kind]], c.vectors[: counts[kind]], c.metadata[: counts[kind]])
        for kind, c in make(seed, images=60)[0].items()
    }


def exact_results(seeds: range, images: int = 60) -> dict[int, list[list[str]]]:
    """Return by seed the exact results of the same queries, computed by numpy from the vectors of the seed."""
    queries, ids_by_seed = make(0, images=60)[1]["image"][:4], {}
    for seed in seeds:
        collection = first_images(seed, images)["image"]
        order = np.argsort(-(queries.astype(np.float64) @ collection.vectors.T.astype(np.float64)), axis=1)[:, :K]
        ids_by_seed[seed] = [[collection.ids[i] for i in line] for line in order]
    return ids_by_seed


def search_until(
    reloader: HotReloader, expected: dict[str, list[list[str]]], stop: Callable[[], bool], outcomes: Counter
) -> None:
    """Search until `stop()` is true; count correct results by version, wrong results and errors by description.

    Args:
        expected: Results by "seed number_of_live_images".
    """
    queries = make(0, images=60)[1]["image"][:4]
    last = False
    while not last:
        last = stop()  # before the search, so that the last search follows the last publication
        try:
            with reloader.borrow() as index:
                ids = [[hit.id for hit in line] for line in index.search(queries, K)]
                live_rows = index.manifest.collections["image"].counts.live
                correct = ids == expected[f"{index.manifest.provenance['seed']} {live_rows}"]
                outcomes[str(index.version) if correct else f"wrong in {index.version}"] += 1
        except Exception as error:  # any error is a failed request
            outcomes[f"failed: {error!r}"] += 1
        time.sleep(0.004)
