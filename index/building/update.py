"""What is new or changed goes into the published index as a delta on the old centroids; what is gone becomes dead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.io import digest
from index.building.build import check_json_plain
from index.building.publish import GateFn, OnStep, build_and_publish, no_progress, republish
from index.building.shard import build_shard, read_metadata
from index.collection import Collection
from index.config import IndexConfig
from index.ivf import faiss_io as shards
from index.ivf.deleted_keys import read_deleted_keys, write_deleted_keys
from index.ivf.vectors import is_in_sorted
from index.metadata.schema import COLUMNS, SCHEMA
from index.metadata.tables import build_table, iter_blocks, table_digest
from index.versions.folder import SCHEMA_VERSION, check_objects, index_write_lock, read_version_manifest
from index.versions.manifest import Candidate, CollectionManifest, Manifest, RowCounts
from index.versions.objects import Staging
from index.versions.switch import RejectedError, rejection_message


class IncompatibleUpdateError(ValueError):
    """What shall go in is not of the published version's kind: only a build can take it."""


@dataclass(frozen=True)
class Changes:
    """What one collection has to become: rows that no shard holds yet, and all keys that are dead from now on."""

    new: pa.Table
    deleted_keys: np.ndarray
    num_live_rows: int  # that are answered then


def update_index(
    config: IndexConfig,
    collections: Mapping[str, Collection],
    root: Path,
    provenance: Mapping[str, Any] | None = None,
    progress: OnStep = no_progress,
    gate: GateFn | None = None,
    version: int | None = None,
) -> Path:
    """Bring the published version, or `version`, to `collections`: all that shall be answered. Returns its manifest.

    Rows are compared with those of the shards, by id; the vectors of new and changed ones alone are read, and go into
    one more shard a collection, under the centroids that are there. An item has changed if its row has: its columns
    should hold a hash of what the vector was made from (`source`). An item that comes back as it was is alive again
    under its old key. With nothing new, nothing is written.

    A run that was killed is taken up where it was. Raises FileNotFoundError if nothing is published, GenerationError
    if provenance, settings, kinds or dimension are not those of the published version, ValueError naming the first
    item that cannot be indexed, RefusedError as `build` does.
    """
    shards.check_single_faiss_wheel()
    root = Path(root)
    with index_write_lock(root):
        parent = read_version_manifest(root, version)
        if parent.is_rejected:
            raise RejectedError(rejection_message(parent, root), parent.version, parent.gate)
        _same_generation(parent, config, collections, check_json_plain(dict(provenance or {})))
        changes = {}
        for kind, collection in collections.items():
            collection.check(kind)
            changes[kind] = find_changes(root, kind, parent.collections[kind], collection.metadata)
        if not any(_dirty(root, parent.collections[kind], change) for kind, change in changes.items()):
            check_objects(root, parent, content=version is not None)
            return republish(root, parent, gate)
        facts: dict[str, Any] = {"schema": SCHEMA_VERSION, "faiss": faiss.__version__, "parent": parent.sha256}
        prints = {
            kind: [
                table_digest(change.new),
                change.deleted_keys.tolist(),
                _vectors_of(kind, collections[kind], change, parent.collections[kind].dim),
            ]
            for kind, change in changes.items()
        }
        inputs = digest(facts | {"changes": prints})

        def make(staging: Staging) -> Candidate:
            body = {
                kind: _updated(staging, kind, parent.collections[kind], collections[kind], change, progress)
                for kind, change in changes.items()
            }
            return make_successor(parent, inputs, body)

        return build_and_publish(root, inputs, make, gate, progress)


def make_successor(parent: Manifest, inputs: str, body: dict[str, CollectionManifest]) -> Candidate:
    """A candidate of the parent's kind with other shards."""
    return Candidate(
        **dict(parent.candidate()) | {"inputs_digest": inputs, "faiss": faiss.__version__, "collections": body}
    )


def _same_generation(
    parent: Manifest, config: IndexConfig, collections: Mapping[str, Collection], origin: dict[str, Any]
) -> None:
    for what, theirs, ours in (
        ("provenance", parent.provenance, origin),
        ("settings", _settings(parent, parent.config), _settings(parent, config.model_dump(mode="json"))),
        ("collections", dict.fromkeys(parent.collections, "there"), dict.fromkeys(collections, "there")),
    ):
        other = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        if other:
            name = other[0]
            raise IncompatibleUpdateError(
                f"version {parent.version} was built with {what} {name} = {theirs.get(name)!r}, and this is "
                f"{ours.get(name)!r}: they never mix. Build a version of its own with `tern index build`."
            )


def _settings(parent: Manifest, config: Mapping[str, Any]) -> dict[str, Any]:
    """With the rows that are rescored as they come out: to leave it open may mean the same as a number."""
    depths = {shards.choose_rescore(config.get("rescore"), about.factory) for about in parent.collections.values()}
    return {**config, "rescore": " or ".join(map(str, sorted(depths)))}


def find_changes(root: Path, kind: str, about: CollectionManifest, rows: Sequence[Mapping[str, Any]]) -> Changes:
    """What the rows of `about`'s shards have to become so that `rows` are answered. No vector is looked at."""
    dead, held = read_deleted_keys(root, about.deleted), read_metadata(root, kind, about)
    if len(dead):
        held = held.filter(pa.array(~is_in_sorted(held["key"].to_numpy(), dead)))
    live = held.combine_chunks()  # or rows are slow to take
    found = [_compared(kind, some, live) for some in iter_blocks(rows)]
    new = build_table(kind, (row for rows_of_block, _ in found for row in rows_of_block))
    keys = new["key"].to_numpy()
    alive = live["key"].to_numpy()
    stays = np.zeros(len(alive), bool)
    for _, at in found:
        stays[at] = True
    if len(both := (kept := alive[stays])[is_in_sorted(kept, keys)]):
        raise ValueError(
            f"{kind} {new['id'][int(np.searchsorted(keys, both[0]))].as_py()!r} shares the 64-bit key of "
            "another row; rename it."
        )
    back = is_in_sorted(keys, dead)
    still = np.setdiff1d(np.union1d(dead, alive[~stays]), keys)
    return Changes(new.filter(pa.array(~back)), still, len(rows))


def _compared(kind: str, rows: list[Mapping[str, Any]], live: pa.Table) -> tuple[list[Mapping[str, Any]], np.ndarray]:
    """Those of some rows that no living row says, and the places of the living ones that say the others."""
    names = pa.array([row["id"] for row in rows], pa.string())
    at = pc.index_in(names, live["id"]).fill_null(-1).to_numpy()
    known = np.flatnonzero(at >= 0)
    same = np.zeros(len(rows), bool)
    same[known] = _equal(rows if len(known) == len(rows) else [rows[i] for i in known], live, at[known])
    return [rows[i] for i in np.flatnonzero(~same)], at[same]


def _equal(rows: Sequence[Mapping[str, Any]], live: pa.Table, at: np.ndarray) -> np.ndarray:
    """(n,) whether each row says what the living one at its place does."""
    said = {name for columns in set(map(tuple, rows)) for name in columns}  # they are nearly all of one kind
    equal = np.full(len(rows), said <= set(COLUMNS) - {"key"})
    for name in COLUMNS[1:]:
        if name not in said and (name == "kind" or live[name].null_count == len(live)):
            continue
        try:
            ours = pa.array([row.get(name) for row in rows], SCHEMA.field(name).type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            return np.zeros(len(rows), bool)  # the table of the rows will say what is wrong
        theirs = live[name].take(at)
        agree = pc.equal(ours, theirs)
        if ours.null_count or theirs.null_count:
            agree = pc.or_(pc.fill_null(agree, False), pc.and_(pc.is_null(ours), pc.is_null(theirs)))
        equal &= agree.to_numpy(zero_copy_only=False)
    return equal


def _dirty(root: Path, about: CollectionManifest, change: Changes) -> bool:
    return bool(change.new.num_rows) or not np.array_equal(change.deleted_keys, read_deleted_keys(root, about.deleted))


def _vectors_of(kind: str, collection: Collection, change: Changes, dim: int) -> str:
    """Hash of the new vectors: rows may be equal where their vectors were mended since an earlier try."""
    found, width = collection.hash_vectors(kind, change.new["id"].to_pylist())
    if width not in (0, dim):
        raise IncompatibleUpdateError(
            f"{kind} vectors have {width} numbers, those of the published version {dim}: they never mix. Build a "
            "version of its own with `tern index build`."
        )
    return found


def _updated(
    staging: Staging, kind: str, about: CollectionManifest, collection: Collection, change: Changes, progress: OnStep
) -> CollectionManifest:
    """The collection's part of the next manifest."""
    parts = list(about.shards)
    if change.new.num_rows:
        parts.append(build_shard(staging, f"{kind}/delta", collection, change.new, about.trained_index, role="delta"))
        progress(f"{kind}/delta")
    dead = write_deleted_keys(staging, f"{kind}/dead", change.deleted_keys)
    progress(f"{kind}/dead")
    counts = RowCounts(live=change.num_live_rows, deleted=len(change.deleted_keys))
    return CollectionManifest(**dict(about) | {"shards": parts, "deleted": dead, "counts": counts})
