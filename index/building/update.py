"""Update of an index: new and changed rows become a delta shard on the existing centroids, removed rows are deleted."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.io import digest
from index.building.alignment import find_alignment_difference, set_rerank
from index.building.build import check_json_plain
from index.building.calibration import CalibrationStep, prepare_calibration
from index.building.changes import Changes, find_changes, has_changes
from index.building.collection_build import CollectionBuild, prepare_builds
from index.building.publish import GateFn, OnStep, build_and_publish, no_progress, republish
from index.building.relabel import relabel_shards
from index.building.shard import build_shard
from index.building.successor import make_successor
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.ivf.deleted_keys import write_deleted_keys
from index.ivf.faiss_io import FAISS_VERSION, check_single_faiss_wheel
from index.metadata.tables import table_digest
from index.versions.folder import check_objects, read_version_manifest
from index.versions.index_folder import index_write_lock
from index.versions.manifest import SCHEMA_VERSION, Candidate, CollectionManifest, Manifest, RowCounts
from index.versions.objects import Staging
from index.versions.switch import check_not_rejected


class IncompatibleUpdateError(ValueError):
    """The inputs do not fit the published version; only a full build can index them."""


def update_index(
    config: IndexConfig,
    inputs: IndexInputs,
    root: Path,
    on_step: OnStep = no_progress,
    gate: GateFn | None = None,
    version: int | None = None,
) -> Path:
    """Publish a version that has exactly the rows of `inputs`, derived from an existing version.

    A kind that the version does not have, such as the first captions, is built; a kind without inputs is left out.

    Rows are compared with those in the shards, by id. Only the vectors of new and changed rows are read; they go into
    one delta shard per collection, on the existing centroids. An item has changed if its row has, so its row should
    contain a hash of what the vector was computed from (`content_hash`). If only `Row.columns` of an item have changed,
    its shard gets new metadata and keeps its vectors. An item that returns unchanged is live again under its old key.
    Without changes nothing is written. An interrupted update resumes.

    Args:
        inputs: All items of the new version, not only the new ones. The queries of a kind are used if it is built, or
            if its size has changed so much that its calibration is fitted again.
        on_step: Called with the name of each finished step.
        gate: Judges the version before it is published; None: it is not judged.
        version: Number of the version to start from; None: the published one.

    Returns:
        The path of the manifest.

    Raises:
        FileNotFoundError: Nothing is published.
        IncompatibleUpdateError: Provenance, settings or dimension differ from those of the version.
        ValueError: There are no collections, or an item cannot be indexed; the message names the first.
        RejectedError: As `build_index`, or the gate rejected `version`.
    """
    check_single_faiss_wheel()
    inputs.check_kinds()
    root = Path(root)
    with index_write_lock(root):
        parent = read_version_manifest(root, version)
        check_not_rejected(root, parent)
        _check_compatible(parent, config, check_json_plain(dict(inputs.provenance)))
        _check_alignment(parent, inputs)
        changes = _find_all_changes(root, parent, inputs)
        is_same = parent.collections.keys() == inputs.collections.keys() and parent.columns == dict(inputs.columns)
        if is_same and _is_unchanged(root, parent, changes, config):
            check_objects(root, parent, content=version is not None)
            return republish(root, parent, gate)
        builds = _prepare_new_collections(config, inputs, parent)
        calibrations = _prepare_calibrations(config, inputs, parent, changes)
        inputs_digest = _digest_changes(parent, inputs, changes, builds, calibrations, config)

        def make(staging: Staging) -> Candidate:
            def make_collection(kind: str) -> CollectionManifest:
                if kind in builds:
                    return builds[kind].run(staging, on_step, parent.provenance)
                manifest, collection = set_rerank(parent.collections[kind], config), inputs.collections[kind]
                manifest = _apply_changes(staging, kind, manifest, collection, changes[kind], on_step)
                if kind not in calibrations:
                    return manifest
                return manifest.model_copy(update={"calibration": calibrations[kind].run(staging, on_step)})

            collections = {kind: make_collection(kind) for kind in inputs.collections}
            return make_successor(parent, inputs_digest, collections, config.rerank, inputs.columns)

        return build_and_publish(root, inputs_digest, make, gate, on_step)


def _find_all_changes(root: Path, parent: Manifest, inputs: IndexInputs) -> dict[str, Changes]:
    """Return the changes of the kinds that both the version and the inputs have."""
    changes = {}
    for kind, collection in inputs.collections.items():
        if kind in parent.collections:
            collection.check(kind)
            changes[kind] = find_changes(root, kind, parent.collections[kind], collection.metadata)
    return changes


def _is_unchanged(root: Path, parent: Manifest, changes: Mapping[str, Changes], config: IndexConfig) -> bool:
    """Return whether an update of the collections of a version would write nothing."""
    manifests = {kind: parent.collections[kind] for kind in changes}
    return not any(
        has_changes(root, manifest, changes[kind]) or set_rerank(manifest, config) != manifest
        for kind, manifest in manifests.items()
    )


def _prepare_new_collections(config: IndexConfig, inputs: IndexInputs, parent: Manifest) -> dict[str, CollectionBuild]:
    """Prepare the build of the kinds that the version to update does not have."""
    collections = {kind: one for kind, one in inputs.collections.items() if kind not in parent.collections}
    builds = prepare_builds(config, replace(inputs, collections=collections))
    for kind, build in builds.items():
        _check_dim(kind, build.dim, next(manifest.dim for manifest in parent.collections.values()))
    return builds


def _prepare_calibrations(
    config: IndexConfig, inputs: IndexInputs, parent: Manifest, changes: Mapping[str, Changes]
) -> dict[str, CalibrationStep]:
    """Prepare the calibration of the collections whose own no longer fits; the others keep theirs."""
    steps = {kind: prepare_calibration(kind, inputs, config) for kind, change in changes.items()}
    return {
        kind: step
        for kind, step in steps.items()
        if step is not None and step.is_due(parent.collections[kind], changes[kind].num_live_rows)
    }


def _digest_changes(
    parent: Manifest,
    inputs: IndexInputs,
    changes: Mapping[str, Changes],
    builds: Mapping[str, CollectionBuild],
    calibrations: Mapping[str, CalibrationStep],
    config: IndexConfig,
) -> str:
    """Return the digest of everything that determines the updated version."""
    digests = {
        kind: [
            table_digest(change.new),
            change.deleted_keys.tolist(),
            sorted(change.relabeled.items()),
            _hash_new_vectors(kind, inputs.collections[kind], change, parent.collections[kind].dim),
        ]
        for kind, change in changes.items()
    }
    facts = {"schema": SCHEMA_VERSION, "faiss": FAISS_VERSION, "parent": parent.sha256, "changes": digests}
    facts["rerank"], facts["columns"] = config.rerank, dict(inputs.columns)
    facts["calibrations"] = {kind: step.digest for kind, step in calibrations.items()}
    return digest(facts | {"built": {kind: build.facts for kind, build in builds.items()}})


def _check_compatible(parent: Manifest, config: IndexConfig, provenance: dict[str, Any]) -> None:
    for old, new in (
        (parent.provenance, provenance),
        (_resolve_settings(parent, parent.config), _resolve_settings(parent, config.model_dump(mode="json"))),
    ):
        different = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if different:
            name = different[0]
            raise IncompatibleUpdateError(
                f"Version {parent.version} was built with {name} = {old.get(name)!r}; the plan now has "
                f"{new.get(name)!r}. An update cannot change it. Build a new version with `tern index build`."
            )


def _check_alignment(parent: Manifest, inputs: IndexInputs) -> None:
    for kind in parent.collections.keys() & inputs.collections.keys():
        if difference := find_alignment_difference(kind, parent.collections[kind], inputs):
            raise IncompatibleUpdateError(
                f"{difference} An update cannot change them. Build a new version with `tern index build`."
            )


def _resolve_settings(parent: Manifest, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that an update cannot change, `rescore` with its effective value.

    None may mean the same as a number.
    """
    rescore = config.get("rescore")
    depths = {manifest.search.rescore for manifest in parent.collections.values()} if rescore is None else {rescore}
    fixed = {name: value for name, value in config.items() if name != "rerank"}
    return fixed | {"rescore": " or ".join(map(str, sorted(depths)))}


def _hash_new_vectors(kind: str, collection: Collection, change: Changes, dim: int) -> str:
    """Hash the new vectors: rows may be equal where vectors were corrected since an interrupted update."""
    vector_digest, new_dim = collection.hash_vectors(kind, change.new["id"].to_pylist())
    if new_dim:
        _check_dim(kind, new_dim, dim)
    return vector_digest


def _check_dim(kind: str, new_dim: int, dim: int) -> None:
    if new_dim != dim:
        raise IncompatibleUpdateError(
            f"The {kind} vectors have {new_dim} numbers, those of the published version {dim}. Build a new version "
            "with `tern index build`."
        )


def _apply_changes(
    staging: Staging,
    kind: str,
    manifest: CollectionManifest,
    collection: Collection,
    change: Changes,
    on_step: OnStep,
) -> CollectionManifest:
    """Write the new metadata, the delta shard and the deleted keys of a collection; return its part of the manifest."""
    shards = relabel_shards(staging, kind, manifest.shards, change.relabeled)
    if change.new.num_rows:
        shards.append(
            build_shard(staging, f"{kind}/delta", collection, change.new, manifest.trained_index, role="delta")
        )
        on_step(f"{kind}/delta")
    deleted = write_deleted_keys(staging, f"{kind}/deleted", change.deleted_keys)
    on_step(f"{kind}/deleted")
    counts = RowCounts(live=change.num_live_rows, deleted=len(change.deleted_keys))
    return CollectionManifest(**dict(manifest) | {"shards": shards, "deleted": deleted, "counts": counts})
