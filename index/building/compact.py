"""When a version has grown untidy, and how it is put in order: deltas and dead rows go, ids and answers stay."""

import re
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import pyarrow as pa

from data.io import digest
from index.building.publish import GateFn, OnStep, build_and_publish, no_progress
from index.building.shard import build_shard, mean_coarse_error, read_metadata
from index.building.update import make_successor
from index.collection import Collection
from index.config import MaintenanceConfig
from index.ivf import faiss_io as shards
from index.ivf.deleted_keys import read_deleted_keys
from index.ivf.vectors import MappedVectors
from index.versions.folder import SCHEMA_VERSION, index_write_lock, manifest_path, read_version_manifest
from index.versions.manifest import Candidate, CollectionManifest, RowCounts, ShardManifest
from index.versions.objects import Staging, check_object


def measure_drift(about: CollectionManifest) -> float:
    """Mean distance to the nearest centroid of the rows in delta shards, over that of the rows first indexed.

    Without delta shards, that of all rows: compaction has put later ones among the first.
    """
    return mean_coarse_error(_deltas(about) or about.shards) / about.coarse_error if about.coarse_error else 1.0


def find_due_maintenance(
    version: Candidate, upkeep: MaintenanceConfig
) -> tuple[Literal["retrain", "compact"], str] | None:
    """What a version needs, and why; None if nothing. Retraining comes first: it compacts too."""
    compaction = None
    for kind, about in version.collections.items():
        deltas = [shard.rows for shard in about.shards if shard.role == "delta"]
        held = max(1, about.counts.live + about.counts.deleted)
        share, dead, grown = sum(deltas) / held, about.counts.deleted / held, measure_drift(about)
        if about.nlist > 1 and grown > upkeep.max_drift and (share >= upkeep.min_drift_fraction or not deltas):
            told = f"new {kind}s lie {grown:.2f} times as far from their centroids as the first did"
            return "retrain", f"{told}, more than {upkeep.max_drift:g}"
        if (lists := _lists_for(version, about.counts.live / upkeep.max_growth, about.dim)) > about.nlist:
            told = f"{about.counts.live:,} {kind}s have outgrown {about.nlist:,} lists"
            return "retrain", f"{told}: {lists:,} are right for 1/{upkeep.max_growth:g} of them"
        for value, most, what in (
            (len(deltas), upkeep.max_delta_shards, "delta shards"),
            (share, upkeep.max_delta_fraction, "of the rows in delta shards"),
            (dead, upkeep.max_deleted_fraction, "of the rows dead"),
        ):
            if value > most and compaction is None:
                compaction = f"{kind}: {value:.2g} {what}, more than {most:g}"
    return ("compact", compaction) if compaction else None


def _lists_for(version: Candidate, rows: float, dim: int) -> int:
    """How many lists a build with the version's settings would choose for so many rows."""
    factory = shards.choose_factory(version.config["factory"], version.config["nlist"], max(1, int(rows)), dim)
    found = re.search(r"IVF(\d+)", factory)
    return int(found[1]) if found else 0


def compact_index(root: Path, progress: OnStep = no_progress, gate: GateFn | None = None) -> Path:
    """Write the published version's living rows into base shards on the same centroids; return the new manifest.

    The shards are, byte for byte, those of a build over the same rows on these centroids. Without deltas and dead rows
    nothing is written. A run that was killed is taken up. Raises FileNotFoundError if nothing is published, ValueError
    if an object is damaged, RefusedError as `build` does.
    """
    shards.check_single_faiss_wheel()
    root = Path(root)
    with index_write_lock(root):
        parent = read_version_manifest(root)
        if not any(about.deleted or _deltas(about) for about in parent.collections.values()):
            return manifest_path(root, parent.version)

        told = {"schema": SCHEMA_VERSION, "faiss": faiss.__version__, "compacted": parent.sha256}
        inputs = digest(told)

        def make(staging: Staging) -> Candidate:
            body = {kind: _compacted(staging, kind, about, progress) for kind, about in parent.collections.items()}
            return make_successor(parent, inputs, body)

        return build_and_publish(root, inputs, make, gate, progress)


def _deltas(about: CollectionManifest) -> list[ShardManifest]:
    return [shard for shard in about.shards if shard.role == "delta"]


def _compacted(staging: Staging, kind: str, about: CollectionManifest, progress: OnStep) -> CollectionManifest:
    """A collection's part of the compacted version."""
    root, rows = staging.root, read_metadata(staging.root, kind, about)
    live = rows.filter(pa.array(~np.isin(rows["key"].to_numpy(), read_deleted_keys(root, about.deleted)))).sort_by(
        "key"
    )
    paths = [check_object(root, shard.vectors, f"{kind} vectors of shard {i}") for i, shard in enumerate(about.shards)]
    stored = MappedVectors(paths, about.dim)
    key = dict(zip(live["id"].to_pylist(), live["key"].to_pylist(), strict=True))
    read = lambda names: stored.get(np.array([key[name] for name in names], np.int64))  # noqa: E731
    collection = Collection(ids=list(key), vectors=read, metadata=[])
    count = len(about.shards) - len(_deltas(about))
    of_shard = live["key"].to_numpy() % count
    parts = []
    for number in range(count):
        name = f"{kind}/shard-{number:04d}"
        mine = live.filter(pa.array(of_shard == number))
        parts.append(build_shard(staging, name, collection, mine, about.trained_index, role="base"))
        progress(name)
    counts = RowCounts(live=live.num_rows, deleted=0)
    return CollectionManifest(**dict(about) | {"shards": parts, "deleted": None, "counts": counts})
