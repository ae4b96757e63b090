"""Maintenance of an index: decide what a version needs, and compact delta shards and deleted rows into base shards."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from data.io import digest
from index.building.publish import GateFn, OnStep, build_and_publish, no_progress
from index.building.shard import build_shard, mean_coarse_error, read_metadata
from index.building.successor import make_successor
from index.collection import Collection
from index.config import EXACT_CODES, MaintenanceConfig
from index.ivf.deleted_keys import read_deleted_keys
from index.ivf.faiss_io import FAISS_VERSION, check_single_faiss_wheel, choose_factory, parse_nlist
from index.ivf.row_vectors import MappedRowVectors
from index.ivf.vectors import MappedVectors
from index.versions.folder import manifest_path, read_version_manifest
from index.versions.index_folder import index_write_lock
from index.versions.manifest import SCHEMA_VERSION, Candidate, CollectionManifest, RowCounts, ShardManifest
from index.versions.objects import Staging, check_object


class Maintenance(NamedTuple):
    """What a version needs, and why."""

    action: Literal["retrain", "compact"]
    reason: str


def measure_drift(manifest: CollectionManifest) -> float:
    """Return the coarse error of the rows in delta shards, relative to that of the rows of the full build.

    Without delta shards it is that of all rows: compaction has merged later rows into the base shards.
    """
    shards = _list_delta_shards(manifest) or manifest.shards
    return mean_coarse_error(shards) / manifest.coarse_error if manifest.coarse_error else 1.0


def find_due_maintenance(version: Candidate, config: MaintenanceConfig) -> Maintenance | None:
    """Return the maintenance that a version needs; None if it needs none.

    Retraining comes first, because it also compacts.
    """
    compaction = None
    for kind, manifest in version.collections.items():
        if (reason := _find_retraining_reason(version, kind, manifest, config)) is not None:
            return Maintenance("retrain", reason)
        compaction = compaction or _find_compaction_reason(kind, manifest, config)
    return Maintenance("compact", compaction) if compaction else None


def _find_retraining_reason(
    version: Candidate, kind: str, manifest: CollectionManifest, config: MaintenanceConfig
) -> str | None:
    deltas, drift = _list_delta_shards(manifest), measure_drift(manifest)
    has_enough_rows = _delta_fraction(manifest) >= config.min_drift_fraction or not deltas
    if manifest.nlist > 1 and drift > config.max_drift and has_enough_rows:
        return (
            f"new {kind}s are {drift:.2f} times as far from their centroids as those of the full build, more than "
            f"{config.max_drift:g} times"
        )
    factory = _choose_factory(version, manifest.counts.live / config.max_growth, manifest.dim)
    num_lists, chosen = parse_nlist(factory), f"a build would choose {{}} for 1/{config.max_growth:g} of them"
    if num_lists > manifest.nlist:
        return f"{manifest.counts.live:,} {kind}s have outgrown {manifest.nlist:,} lists: " + chosen.format(
            f"{num_lists:,} lists"
        )
    if manifest.is_exact and not factory.endswith(EXACT_CODES):
        return f"{manifest.counts.live:,} {kind}s have outgrown exact search: " + chosen.format(factory)
    return None


def _find_compaction_reason(kind: str, manifest: CollectionManifest, config: MaintenanceConfig) -> str | None:
    deleted_fraction = manifest.counts.deleted / max(1, manifest.counts.live + manifest.counts.deleted)
    for value, maximum, unit in (
        (len(_list_delta_shards(manifest)), config.max_delta_shards, "delta shards"),
        (_delta_fraction(manifest), config.max_delta_fraction, "of the rows in delta shards"),
        (deleted_fraction, config.max_deleted_fraction, "of the rows deleted"),
    ):
        if value > maximum:
            return f"{kind}: {value:.2g} {unit}, more than {maximum:g}"
    return None


def _delta_fraction(manifest: CollectionManifest) -> float:
    rows = sum(shard.rows for shard in _list_delta_shards(manifest))
    return rows / max(1, manifest.counts.live + manifest.counts.deleted)


def _choose_factory(version: Candidate, rows: float, dim: int) -> str:
    """Return the factory string that a build with the settings of a version would choose for `rows` rows."""
    return choose_factory(version.config["factory"], version.config["nlist"], max(1, int(rows)), dim)


def compact_index(root: Path, on_step: OnStep = no_progress, gate: GateFn | None = None) -> Path:
    """Write the live rows of the published version into base shards, and publish the result.

    The centroids stay the same. The shards have the bytes of a build over the same rows on these centroids. Without
    delta shards and deleted rows nothing is written. An interrupted run resumes.

    Args:
        root: Folder of the index.
        on_step: Called with the name of each finished step.
        gate: Judges the compacted version before it is published; None: it is not judged.

    Returns:
        The path of the manifest.

    Raises:
        FileNotFoundError: Nothing is published.
        ValueError: An object is damaged.
        RejectedError: As `build_index`.
    """
    check_single_faiss_wheel()
    root = Path(root)
    with index_write_lock(root):
        parent = read_version_manifest(root)
        if not any(manifest.deleted or _list_delta_shards(manifest) for manifest in parent.collections.values()):
            return manifest_path(root, parent.version)
        inputs_digest = digest({"schema": SCHEMA_VERSION, "faiss": FAISS_VERSION, "compacted": parent.sha256})

        def make(staging: Staging) -> Candidate:
            collections = {
                kind: _compact_collection(staging, kind, manifest, on_step)
                for kind, manifest in parent.collections.items()
            }
            return make_successor(parent, inputs_digest, collections)

        return build_and_publish(root, inputs_digest, make, gate, on_step)


def _list_delta_shards(manifest: CollectionManifest) -> list[ShardManifest]:
    return [shard for shard in manifest.shards if shard.role == "delta"]


def _open_row_vectors(root: Path, kind: str, manifest: CollectionManifest) -> MappedRowVectors | None:
    """Verify and open the row vectors of a collection; None without any."""
    if manifest.alignment is None:
        return None
    refs = enumerate(shard.row_vectors for shard in manifest.shards)
    paths = [check_object(root, ref, f"{kind} row_vectors of shard {i}") for i, ref in refs if ref is not None]
    return MappedRowVectors(paths, manifest.alignment.dim)


def _compact_collection(
    staging: Staging, kind: str, manifest: CollectionManifest, on_step: OnStep
) -> CollectionManifest:
    """Write the base shards of a collection; return its part of the compacted manifest."""
    root, rows = staging.root, read_metadata(staging.root, kind, manifest)
    is_live = ~np.isin(rows["key"].to_numpy(), read_deleted_keys(root, manifest.deleted))
    live = rows.filter(pa.array(is_live)).sort_by("key")
    paths = [
        check_object(root, shard.vectors, f"{kind} vectors of shard {i}") for i, shard in enumerate(manifest.shards)
    ]
    vectors = MappedVectors(paths, manifest.dim)
    row_vectors = _open_row_vectors(root, kind, manifest)
    key_by_id = dict(zip(live["id"].to_pylist(), live["key"].to_pylist(), strict=True))

    def get_keys(ids: list[str]) -> np.ndarray:
        return np.array([key_by_id[name] for name in ids], np.int64)

    collection = Collection(
        ids=list(key_by_id),
        vectors=lambda ids: vectors.get(get_keys(ids)),
        metadata=[],
        rows=None if row_vectors is None else lambda ids: row_vectors.get(get_keys(ids)),
    )
    num_shards = len(manifest.shards) - len(_list_delta_shards(manifest))
    shard_numbers = live["key"].to_numpy() % num_shards
    shards = []
    for number in range(num_shards):
        name = f"{kind}/shard-{number:04d}"
        shard_rows = live.filter(pa.array(shard_numbers == number))
        shards.append(build_shard(staging, name, collection, shard_rows, manifest.trained_index, role="base"))
        on_step(name)
    counts = RowCounts(live=live.num_rows, deleted=0)
    return CollectionManifest(**dict(manifest) | {"shards": shards, "deleted": None, "counts": counts})
