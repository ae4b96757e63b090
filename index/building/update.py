"""Update of an index: new and changed rows become a delta shard on the existing centroids, removed rows are deleted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.io import digest
from index.building.build import check_json_plain
from index.building.publish import GateFn, OnStep, build_and_publish, no_progress, republish
from index.building.shard import build_shard, read_metadata
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.ivf.deleted_keys import read_deleted_keys, write_deleted_keys
from index.ivf.faiss_io import FAISS_VERSION, check_single_faiss_wheel, choose_rescore
from index.ivf.vectors import is_in_sorted
from index.metadata.schema import CONTENT_COLUMNS, SCHEMA, Row
from index.metadata.tables import CONVERSION_ERRORS, build_table, iter_blocks, table_digest
from index.versions.folder import check_objects, read_version_manifest
from index.versions.index_folder import index_write_lock
from index.versions.manifest import SCHEMA_VERSION, Candidate, CollectionManifest, Manifest, RowCounts
from index.versions.objects import Staging
from index.versions.switch import check_not_rejected


class IncompatibleUpdateError(ValueError):
    """The inputs do not fit the published version; only a full build can index them."""


@dataclass(frozen=True)
class Changes:
    """Changes of one collection."""

    new: pa.Table
    """rows that no shard has yet"""
    deleted_keys: np.ndarray
    """(m,) int64, sorted: all keys that are deleted after the update"""
    num_live_rows: int
    """number of rows that are returned after the update"""


def update_index(
    config: IndexConfig,
    inputs: IndexInputs,
    root: Path,
    on_step: OnStep = no_progress,
    gate: GateFn | None = None,
    version: int | None = None,
) -> Path:
    """Publish a version that has exactly the rows of `inputs`, derived from an existing version.

    Rows are compared with those in the shards, by id. Only the vectors of new and changed rows are read; they go into
    one delta shard per collection, on the existing centroids. An item has changed if its row has, so its columns should
    contain a hash of what the vector was computed from (`content_hash`). An item that returns unchanged is live again
    under its old key. Without changes nothing is written. An interrupted update resumes.

    Args:
        inputs: All items of the new version, not only the new ones; its queries are not used.
        on_step: Called with the name of each finished step.
        gate: Judges the version before it is published; None: it is not judged.
        version: Number of the version to start from; None: the published one.

    Returns:
        The path of the manifest.

    Raises:
        FileNotFoundError: Nothing is published.
        IncompatibleUpdateError: Provenance, settings, kinds or dimension differ from those of the version.
        ValueError: An item cannot be indexed; the message names the first.
        RejectedError: As `build_index`, or the gate rejected `version`.
    """
    check_single_faiss_wheel()
    root = Path(root)
    with index_write_lock(root):
        parent = read_version_manifest(root, version)
        check_not_rejected(root, parent)
        _check_compatible(parent, config, inputs.collections, check_json_plain(dict(inputs.provenance)))
        changes = _find_all_changes(root, parent, inputs)
        if not any(_has_changes(root, parent.collections[kind], change) for kind, change in changes.items()):
            check_objects(root, parent, content=version is not None)
            return republish(root, parent, gate)
        inputs_digest = _digest_changes(parent, inputs, changes)

        def make(staging: Staging) -> Candidate:
            collections = {
                kind: _apply_changes(staging, kind, parent.collections[kind], inputs.collections[kind], change, on_step)
                for kind, change in changes.items()
            }
            return make_successor(parent, inputs_digest, collections)

        return build_and_publish(root, inputs_digest, make, gate, on_step)


def _find_all_changes(root: Path, parent: Manifest, inputs: IndexInputs) -> dict[str, Changes]:
    changes = {}
    for kind, collection in inputs.collections.items():
        collection.check(kind)
        changes[kind] = find_changes(root, kind, parent.collections[kind], collection.metadata)
    return changes


def _digest_changes(parent: Manifest, inputs: IndexInputs, changes: Mapping[str, Changes]) -> str:
    """Return the digest of everything that determines the updated version."""
    digests = {
        kind: [
            table_digest(change.new),
            change.deleted_keys.tolist(),
            _hash_new_vectors(kind, inputs.collections[kind], change, parent.collections[kind].dim),
        ]
        for kind, change in changes.items()
    }
    return digest({"schema": SCHEMA_VERSION, "faiss": FAISS_VERSION, "parent": parent.sha256, "changes": digests})


def make_successor(parent: Manifest, inputs_digest: str, collections: Mapping[str, CollectionManifest]) -> Candidate:
    """Return a candidate with the settings and the provenance of its parent.

    `collections` has the manifests of its shards by kind, and `inputs_digest` is the digest of its inputs.
    """
    update = {"inputs_digest": inputs_digest, "faiss": FAISS_VERSION, "collections": dict(collections)}
    return Candidate(**dict(parent.candidate()) | update)


def _check_compatible(
    parent: Manifest, config: IndexConfig, collections: Mapping[str, Collection], provenance: dict[str, Any]
) -> None:
    for what, old, new in (
        ("", parent.provenance, provenance),
        ("", _resolve_rescore(parent, parent.config), _resolve_rescore(parent, config.model_dump(mode="json"))),
        ("collection ", dict.fromkeys(parent.collections, "present"), dict.fromkeys(collections, "present")),
    ):
        different = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if different:
            name = different[0]
            raise IncompatibleUpdateError(
                f"Version {parent.version} was built with {what}{name} = {old.get(name)!r}; the plan now has "
                f"{new.get(name)!r}. An update cannot change it. Build a new version with `tern index build`."
            )


def _resolve_rescore(parent: Manifest, config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `rescore` by its effective value: None may mean the same as a number."""
    depths = {choose_rescore(config.get("rescore"), manifest.factory) for manifest in parent.collections.values()}
    return {**config, "rescore": " or ".join(map(str, sorted(depths)))}


def find_changes(root: Path, kind: str, manifest: CollectionManifest, rows: Sequence[Row]) -> Changes:
    """Compare the rows in the shards of a collection with `rows`; no vector is read.

    Args:
        root: Folder of the index.
        kind: Kind of the collection.
        manifest: Manifest of the collection with the stored rows.
        rows: All rows of the new version.

    Raises:
        ValueError: A row is not valid, or two rows have the same 64-bit key.
    """
    deleted_keys, stored = read_deleted_keys(root, manifest.deleted), read_metadata(root, kind, manifest)
    if len(deleted_keys):
        stored = stored.filter(pa.array(~is_in_sorted(stored["key"].to_numpy(), deleted_keys)))
    live = stored.combine_chunks()  # `take` is slow on many chunks
    blocks = [_split_known_rows(kind, block, live) for block in iter_blocks(rows)]
    new = build_table(kind, (row for new_rows, _ in blocks for row in new_rows))
    new_keys = new["key"].to_numpy()
    live_keys = live["key"].to_numpy()
    is_kept = np.zeros(len(live_keys), bool)
    for _, positions in blocks:
        is_kept[positions] = True
    kept_keys = live_keys[is_kept]
    if len(shared := kept_keys[is_in_sorted(kept_keys, new_keys)]):
        name = new["id"][int(np.searchsorted(new_keys, shared[0]))].as_py()
        raise ValueError(f"{kind} {name!r} shares the 64-bit key of another row. Rename it.")
    is_restored = is_in_sorted(new_keys, deleted_keys)
    still_deleted = np.setdiff1d(np.union1d(deleted_keys, live_keys[~is_kept]), new_keys)
    return Changes(new.filter(pa.array(~is_restored)), still_deleted, len(rows))


def _split_known_rows(kind: str, rows: list[Row], live: pa.Table) -> tuple[list[Row], np.ndarray]:
    """Return the rows without an equal live row, and the positions of the other rows' equals in `live`."""
    ids = pa.array([row.id for row in rows], pa.string())
    positions = pc.index_in(ids, live["id"]).fill_null(-1).to_numpy()
    known = np.flatnonzero(positions >= 0)
    is_equal = np.zeros(len(rows), bool)
    known_rows = rows if len(known) == len(rows) else [rows[i] for i in known]
    is_equal[known] = _equal_rows(known_rows, live, positions[known])
    return [rows[i] for i in np.flatnonzero(~is_equal)], positions[is_equal]


def _equal_rows(rows: Sequence[Row], live: pa.Table, positions: np.ndarray) -> np.ndarray:
    """Return (n,) bool: whether each row equals the live row at its position."""
    equal = np.full(len(rows), True)
    for name, values in zip(CONTENT_COLUMNS, zip(*rows, strict=True), strict=False):
        if live[name].null_count == len(live) and all(value is None for value in values):
            continue
        try:
            column = pa.array(values, SCHEMA.field(name).type)
        except CONVERSION_ERRORS:
            return np.zeros(len(rows), bool)  # `build_table` raises the error with a message
        live_column = live[name].take(positions)
        agree = pc.equal(column, live_column)
        if column.null_count or live_column.null_count:
            agree = pc.or_(pc.fill_null(agree, False), pc.and_(pc.is_null(column), pc.is_null(live_column)))
        equal &= agree.to_numpy(zero_copy_only=False)
    return equal


def _has_changes(root: Path, manifest: CollectionManifest, change: Changes) -> bool:
    return bool(change.new.num_rows) or not np.array_equal(
        change.deleted_keys, read_deleted_keys(root, manifest.deleted)
    )


def _hash_new_vectors(kind: str, collection: Collection, change: Changes, dim: int) -> str:
    """Hash the new vectors: rows may be equal where vectors were corrected since an interrupted update."""
    vector_digest, new_dim = collection.hash_vectors(kind, change.new["id"].to_pylist())
    if new_dim not in (0, dim):
        raise IncompatibleUpdateError(
            f"The {kind} vectors have {new_dim} numbers, those of the published version {dim}. Build a new version "
            "with `tern index build`."
        )
    return vector_digest


def _apply_changes(
    staging: Staging,
    kind: str,
    manifest: CollectionManifest,
    collection: Collection,
    change: Changes,
    on_step: OnStep,
) -> CollectionManifest:
    """Write the delta shard and the deleted keys of a collection; return its part of the new manifest."""
    shards = list(manifest.shards)
    if change.new.num_rows:
        shards.append(
            build_shard(staging, f"{kind}/delta", collection, change.new, manifest.trained_index, role="delta")
        )
        on_step(f"{kind}/delta")
    deleted = write_deleted_keys(staging, f"{kind}/deleted", change.deleted_keys)
    on_step(f"{kind}/deleted")
    counts = RowCounts(live=change.num_live_rows, deleted=len(change.deleted_keys))
    return CollectionManifest(**dict(manifest) | {"shards": shards, "deleted": deleted, "counts": counts})
