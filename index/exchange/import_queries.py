"""Queries that choose nprobe and measure the recall of an import."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from index.collection import Collection
from index.exchange.part_files import map_vectors, scale_to_unit
from index.quality.checks import GateQueries

OTHER_KIND = {"image": "caption", "caption": "image"}
OWN_QUERIES = (
    "there are only {kind} vectors, so recall is measured with vectors of the index itself, and is lower for other "
    "queries; pass --queries FILE.npy to measure it with them"
)


def choose_queries(
    collections: Mapping[str, Collection], path: Path | None, max_queries: int, seed: int = 0, normalize: bool = False
) -> dict[str, GateQueries]:
    """Return queries by the kind that is searched: those of a file, else random vectors.

    The random ones are of the other kind, or of the same kind if there is no other.

    Args:
        path: .npy file of (q, d) floats; None: use random vectors.
        max_queries: Maximum number of random vectors.
        seed: Random seed of their choice.
        normalize: Scale the queries of a file to unit length.
    """
    if path is not None:
        vectors = np.asarray(map_vectors(path), np.float32)
        return dict.fromkeys(collections, GateQueries(scale_to_unit(vectors) if normalize else vectors))
    queries = {}
    for kind in collections:
        has_other = OTHER_KIND[kind] in collections
        source = collections[OTHER_KIND[kind] if has_other else kind]
        ids, generator = sorted(source.ids), np.random.Generator(np.random.PCG64(seed))
        positions = generator.choice(len(ids), min(max_queries, len(ids)), replace=False)
        names = [ids[i] for i in np.sort(positions)]
        if not has_other and len(names) == 1:  # a single vector both chooses nprobe and measures it
            names *= 2
        queries[kind] = GateQueries(source.read(names), source="held-out" if has_other else "self")
    return queries
