"""Vectors in, a published version out: one trained quantizer and `shards` shards for each collection."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from data.io import digest
from index.building.publish import GateFn, OnStep, build_and_publish, no_progress
from index.building.shard import build_shard, compute_vector_space, mean_coarse_error
from index.collection import Collection
from index.config import KINDS, IndexConfig
from index.ivf import faiss_io as shards
from index.ivf.distance import check_unit_norm
from index.ivf.sharded_ivf import ShardedIVF
from index.ivf.vectors import MappedVectors
from index.metadata.tables import build_table, table_digest
from index.tuning.nprobe import sample_rows, tune_nprobe
from index.versions.folder import SCHEMA_VERSION, index_write_lock
from index.versions.manifest import Candidate, CollectionManifest, RowCounts, SearchParams, ShardManifest
from index.versions.objects import ManifestModel, ObjectRef, Staging, object_path


class _Template(ManifestModel):
    """A trained quantizer, and its factory string as it was filled in."""

    factory: str
    template: ObjectRef


class _Tuned(ManifestModel):
    search: SearchParams
    recall: dict[str, Any]


def build_index(
    config: IndexConfig,
    collections: Mapping[str, Collection],
    queries: Mapping[str, np.ndarray],
    root: Path,
    provenance: Mapping[str, Any] | None = None,
    on_step: OnStep = no_progress,
    gate: GateFn | None = None,
) -> Path:
    """Build an index version under `root`, point CURRENT at it and return its manifest's path.

    collections  by kind, "image" and "caption" (either may be left out); equal dimension d
    queries      by the kind they ask for, (q, d) unit vectors, two or more, held out from training: vectors of
                 sentences for "image", vectors of images for "caption". They choose nprobe and measure recall@10.
    provenance   what the vectors came from (digests of model and stores), JSON-able, kept in the manifest
    progress     called with the name of every step once it is done
    gate         judges the version before it is served; None: it is not judged

    Equal input gives equal bytes, whatever the order of ids. If a version of equal input verifies, that one is served
    and nothing is built; a build that was killed is taken up where it was. Raises ValueError naming the first item
    that cannot be indexed, RefusedError if the gate says no: the version is kept, and what was served still is.
    """
    shards.check_single_faiss_wheel()
    _check_kinds(collections, queries)
    dims, prints = {}, {}
    for kind, collection in collections.items():
        collection.check(kind)
        prints[kind], dims[kind] = collection.hash_vectors(kind)
    asked = {kind: _queries(kind, queries[kind], dims, config) for kind in collections}
    tables = {kind: build_table(kind, collection.metadata) for kind, collection in collections.items()}
    origin = check_json_plain(dict(provenance or {}))
    candidate = Candidate(
        inputs_digest="",
        faiss=faiss.__version__,
        config=config.model_dump(mode="json"),
        provenance=origin,
        collections={},
    )
    inputs = digest(
        {
            "schema": SCHEMA_VERSION,
            "vectors": prints,
            "queries": {kind: sha256(array.tobytes()).hexdigest() for kind, array in asked.items()},
            "metadata": {kind: table_digest(content) for kind, content in tables.items()},
        }
        | candidate.model_dump()
    )
    root = Path(root)
    with index_write_lock(root):
        make = lambda staging: candidate.model_copy(  # noqa: E731
            update={
                "inputs_digest": inputs,
                "collections": {
                    kind: _build_collection(kind, config, it, tables[kind], asked[kind], staging, origin, on_step)
                    for kind, it in collections.items()
                },
            }
        )
        return build_and_publish(root, inputs, make, gate, on_step)


def check_json_plain(provenance: dict[str, Any]) -> dict[str, Any]:
    """The provenance as JSON reads it back; refused now rather than after the work, if JSON cannot hold it."""
    try:
        return json.loads(json.dumps(provenance, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance {provenance!r} cannot be written as JSON: {error}; give plain values.") from error


def _check_kinds(collections: Mapping[str, Collection], queries: Mapping[str, np.ndarray]) -> None:
    if not collections:
        raise ValueError("there are no collections to index; give the vectors of images, captions or both.")
    for kind in collections:
        if kind not in KINDS:
            raise ValueError(f"there is no kind {kind!r}; a collection is one of {', '.join(KINDS)}.")
        if kind not in queries:
            raise ValueError(f"no queries ask for {kind!r}; give held-out vectors of the other kind to measure recall.")


def _queries(kind: str, queries: np.ndarray, dims: Mapping[str, int], config: IndexConfig) -> np.ndarray:
    """(q, d) float32: at most `query_rows` of the queries, checked."""
    dim, array = dims[kind], np.asarray(queries, np.float32)
    if set(dims.values()) != {dim}:
        told = ", ".join(f"{name} {d}" for name, d in dims.items())
        raise ValueError(f"the collections have different dimensions ({told}); embed both with one model.")
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"queries for {kind!r} have shape {array.shape}, the collection's vectors have {dim} numbers.")
    if len(array) < 2:
        raise ValueError(f"{len(array)} queries for {kind!r}; give 2 or more: half choose nprobe, half judge it.")
    check_unit_norm(array, f"query for {kind!r}, row", range(len(array)))
    if len(array) <= config.tuning_queries:
        return array
    return array[sample_rows(len(array), config.tuning_queries, config.seed)]  # of which `tune` takes the halves


def _build_collection(
    kind: str,
    config: IndexConfig,
    collection: Collection,
    content: pa.Table,
    queries: np.ndarray,
    staging: Staging,
    provenance: dict[str, Any],
    progress: OnStep,
) -> CollectionManifest:
    """Make one collection's objects; return its part of the manifest."""
    trained = staging.run_step(f"{kind}/template", _Template, lambda: _train(kind, config, collection, staging))
    progress(f"{kind}/template")
    parts: list[ShardManifest] = []
    of_shard = content["key"].to_numpy() % config.shards  # the key alone decides
    for number in range(config.shards):
        name = f"{kind}/shard-{number:04d}"
        mine = content.filter(of_shard == number)
        parts.append(build_shard(staging, name, collection, mine, trained.template, role="base"))
        progress(name)
    template = object_path(staging.root, trained.template)
    dim = shards.read_dim(template)
    lists = ShardedIVF(
        template,
        [object_path(staging.root, part.inverted_lists) for part in parts],
        vectors=MappedVectors([object_path(staging.root, part.vectors) for part in parts], dim),
    )

    def measure() -> _Tuned:
        names = dict(zip(content["key"].to_pylist(), content["id"].to_pylist(), strict=True))
        depth = shards.choose_rescore(config.rescore, trained.factory)
        tuned = tune_nprobe(collection, names, lists, queries, config.target_recall, config.seed, depth)
        return _Tuned(search=SearchParams(nprobe=tuned.nprobe, rescore=depth), recall=tuned.as_dict())

    tuned = staging.run_step(f"{kind}/tuned", _Tuned, measure)
    progress(f"{kind} tuned")
    return CollectionManifest(
        dim=dim,
        factory=trained.factory,
        nlist=lists.nlist,
        vector_space=compute_vector_space(provenance, trained.template),
        trained_index=trained.template,
        shards=parts,
        counts=RowCounts(live=content.num_rows, deleted=0),
        search=tuned.search,
        recall=tuned.recall,
        coarse_error=mean_coarse_error(parts),
    )


def _train(kind: str, config: IndexConfig, collection: Collection, staging: Staging) -> _Template:
    rows, dim = len(collection.ids), collection.read(collection.sorted_ids[:1]).shape[1]
    factory = shards.choose_factory(config.factory, config.nlist, rows, dim)
    most = max(config.train_rows, shards.POINTS_PER_LIST * shards.parse_nlist(factory))
    names = [collection.sorted_ids[place] for place in sample_rows(rows, most, config.seed)]
    some = np.concatenate([block for _, block in collection.iter_blocks(names)])
    trained = shards.train_ivf(factory, some, config.seed)
    write = lambda path: shards.write_trained_index(trained, path)  # noqa: E731
    return _Template(factory=factory, template=staging.add_object(f"{kind}/template", write))
