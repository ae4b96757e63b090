"""Index live of `tests`."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np

from index.building.build import build_index
from index.collection import Collection
from index.config import GateConfig, IndexConfig
from index.quality.checks import HeldOutQueries
from index.quality.gate import make_gate
from index.search.hot_reload import HotReloader
from tests.helpers.index_world import make


def named(root: Path) -> set[str]:
    """Every hash in every manifest, by a walk over the raw JSON."""

    def walk(part):
        if isinstance(part, dict):
            if {"sha256", "bytes"} == set(part):
                yield part["sha256"]
            for inner in part.values():
                yield from walk(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from walk(inner)

    return {name for path in root.glob("versions/*.json") for name in walk(json.loads(path.read_text()))}


CONFIG = IndexConfig(nlist=1, shards=2)  # exact
K = 5


def publish(root: Path, seed: int, gated: bool = False) -> None:
    collections, queries = make(seed, images=60)
    asked = {kind: HeldOutQueries(queries[kind]) for kind in collections}
    gate = make_gate(GateConfig(max_sampled_rows=20), asked, collections, CONFIG) if gated else None
    build_index(CONFIG, collections, queries, root, provenance={"seed": seed}, gate=gate)


def fewer(seed: int, images: int) -> dict[str, Collection]:
    """The first images of a seed, and their captions."""
    whole = make(seed, images=60)[0]
    kept = {"image": images, "caption": 2 * images}
    return {
        kind: Collection(c.ids[: kept[kind]], c.vectors[: kept[kind]], c.metadata[: kept[kind]])
        for kind, c in whole.items()
    }


def expected(seeds: range, images: int = 60) -> dict[int, list[list[str]]]:
    """Exact answers by numpy, of every version's own vectors, to the same questions."""
    queries, found = make(0, images=60)[1]["image"][:4], {}
    for seed in seeds:
        collection = fewer(seed, images)["image"]
        order = np.argsort(-(queries.astype(np.float64) @ collection.vectors.T.astype(np.float64)), axis=1)[:, :K]
        found[seed] = [[collection.ids[i] for i in line] for line in order]
    return found


def searching(live: HotReloader, right: dict[str, list[list[str]]], stop, seen: Counter) -> None:
    """Ask until told to stop; `seen` counts right answers by version, and what was not one under its own name."""
    queries = make(0, images=60)[1]["image"][:4]
    last = False
    while not last:
        last = stop()  # asked first, so that the last question comes after all that was published
        try:
            with live.borrow() as index:
                answer = [[hit.id for hit in line] for line in index.search(queries, K)]
                live_rows = index.manifest["collections"]["image"]["counts"]["live"]
                good = answer == right[f"{index.manifest['provenance']['seed']} {live_rows}"]
                seen[str(index.version) if good else f"wrong in {index.version}"] += 1
        except Exception as error:  # whatever it is, a request has failed
            seen[f"failed: {error!r}"] += 1
        time.sleep(0.004)
