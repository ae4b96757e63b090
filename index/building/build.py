"""Full build of an index version: per collection one trained quantizer and `shards` base shards."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.io import digest
from index.building.publish import GateFn, OnStep, build_and_publish, no_progress
from index.building.shard import build_shard, compute_vector_space, mean_coarse_error
from index.collection import Collection, IndexInputs
from index.config import KINDS, IndexConfig
from index.ivf import faiss_io
from index.ivf.distance import check_unit_norm
from index.ivf.sharded_ivf import ShardedIVF
from index.ivf.vectors import MappedVectors
from index.metadata.tables import build_table, table_digest
from index.tuning.nprobe import sample_rows, tune_nprobe
from index.versions.index_folder import check_index_target, index_write_lock
from index.versions.manifest import (
    SCHEMA_VERSION,
    Candidate,
    CollectionManifest,
    RecallReport,
    RowCounts,
    SearchParams,
    ShardManifest,
)
from index.versions.objects import ManifestModel, ObjectRef, Staging, object_path
from index.versions.switch import IMPORTED, check_same_origin


class _TrainedIndex(ManifestModel):
    """Result of training: the object, and the factory string with "auto" and "{nlist}" replaced."""

    factory: str
    trained_index: ObjectRef


class _Tuning(ManifestModel):
    search: SearchParams
    recall: RecallReport


def build_index(
    config: IndexConfig,
    inputs: IndexInputs,
    root: Path,
    on_step: OnStep = no_progress,
    gate: GateFn | None = None,
) -> Path:
    """Build an index version under `root`, publish it, and return the path of its manifest.

    Equal inputs give equal bytes, in any order of ids. If a version of equal inputs exists and verifies, it is
    published and nothing is built. An interrupted build resumes.

    Args:
        on_step: Called with the name of each finished step.
        gate: Judges the version before it is published; None: it is not judged.

    Raises:
        ValueError: An item cannot be indexed (the message names the first), or `root` holds something else.
        RejectedError: The gate rejects the version: it is kept, and the served version does not change.
    """
    faiss_io.check_single_faiss_wheel()
    check_index_target(Path(root))
    check_same_origin(Path(root), IMPORTED in inputs.provenance)
    candidate, tables, queries = _prepare(config, inputs)

    def make(staging: Staging) -> Candidate:
        collections = {}
        for kind, collection in inputs.collections.items():
            build = _CollectionBuild(kind, config, collection, tables[kind], staging, on_step)
            collections[kind] = build.run(queries[kind], candidate.provenance)
        return candidate.model_copy(update={"collections": collections})

    root = Path(root)
    with index_write_lock(root, create=True):
        return build_and_publish(root, candidate.inputs_digest, make, gate, on_step)


def _prepare(config: IndexConfig, inputs: IndexInputs) -> tuple[Candidate, dict[str, pa.Table], dict[str, np.ndarray]]:
    """Check the inputs.

    Returns the candidate without collections, and by kind the metadata table and the queries.
    """
    _check_kinds(inputs)
    vector_digests, dims = {}, {}
    for kind, collection in inputs.collections.items():
        collection.check(kind)
        vector_digests[kind], dims[kind] = collection.hash_vectors(kind)
    queries = {kind: _select_queries(kind, inputs.queries[kind], dims, config) for kind in inputs.collections}
    tables = {kind: build_table(kind, collection.metadata) for kind, collection in inputs.collections.items()}
    candidate = Candidate(
        inputs_digest="",
        faiss=faiss_io.FAISS_VERSION,
        config=config.model_dump(mode="json"),
        provenance=check_json_plain(dict(inputs.provenance)),
        collections={},
    )
    facts = {
        "schema": SCHEMA_VERSION,
        "vectors": vector_digests,
        "queries": {kind: sha256(array.tobytes()).hexdigest() for kind, array in queries.items()},
        "metadata": {kind: table_digest(table) for kind, table in tables.items()},
    }
    inputs_digest = digest(facts | candidate.model_dump())
    return candidate.model_copy(update={"inputs_digest": inputs_digest}), tables, queries


def check_json_plain(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance as it is read back from JSON.

    Raises:
        ValueError: JSON cannot represent it; this is checked before the build, not after it.
    """
    try:
        return json.loads(json.dumps(provenance, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The provenance {provenance!r} cannot be written as JSON: {error}. Pass strings and numbers."
        ) from error


def _check_kinds(inputs: IndexInputs) -> None:
    if not inputs.collections:
        raise ValueError("There are no collections to index. Pass the vectors of images, captions or both.")
    for kind in inputs.collections:
        if kind not in KINDS:
            raise ValueError(f"There is no kind {kind!r}; a collection is one of {', '.join(KINDS)}.")
        if kind not in inputs.queries:
            raise ValueError(
                f"There are no queries for {kind!r}. Pass held-out vectors of the other kind to measure recall."
            )


def _select_queries(kind: str, queries: np.ndarray, dims: Mapping[str, int], config: IndexConfig) -> np.ndarray:
    """Check the queries of a kind and return at most `tuning_queries` of them, (q, d) float32."""
    dim, array = dims[kind], np.asarray(queries, np.float32)
    if set(dims.values()) != {dim}:
        all_dims = ", ".join(f"{name} {d}" for name, d in dims.items())
        raise ValueError(f"The collections have different dimensions ({all_dims}). Embed both with one model.")
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(
            f"The queries for {kind!r} have shape {array.shape}, but the vectors of the collection have {dim} numbers."
        )
    if len(array) < 2:
        raise ValueError(
            f"There are {len(array)} queries for {kind!r}. Pass at least 2: one half chooses nprobe, one measures."
        )
    check_unit_norm(array, f"query for {kind!r} in row", range(len(array)))
    if len(array) <= config.tuning_queries:
        return array
    return array[sample_rows(len(array), config.tuning_queries, config.seed)]  # `tune_nprobe` splits them into halves


@dataclass(frozen=True)
class _CollectionBuild:
    """Build of one collection: train the quantizer, write the base shards, choose nprobe."""

    kind: str
    config: IndexConfig
    collection: Collection
    rows: pa.Table
    staging: Staging
    on_step: OnStep

    def run(self, queries: np.ndarray, provenance: dict[str, Any]) -> CollectionManifest:
        """Write the objects of the collection; return its part of the manifest."""
        name, staging = f"{self.kind}/trained-index", self.staging
        trained = staging.run_step(name, _TrainedIndex, lambda: self._train(name))
        self.on_step(name)
        shards = self._build_shards(trained.trained_index)
        path = object_path(staging.root, trained.trained_index)
        dim = faiss_io.read_dim(path)
        lists = ShardedIVF(
            path,
            [object_path(staging.root, shard.inverted_lists) for shard in shards],
            vectors=MappedVectors([object_path(staging.root, shard.vectors) for shard in shards], dim),
        )
        tuning = staging.run_step(f"{self.kind}/tuned", _Tuning, lambda: self._tune(lists, queries, trained.factory))
        self.on_step(f"{self.kind}/tuned")
        return CollectionManifest(
            dim=dim,
            factory=trained.factory,
            nlist=lists.nlist,
            vector_space=compute_vector_space(provenance, trained.trained_index),
            trained_index=trained.trained_index,
            shards=shards,
            counts=RowCounts(live=self.rows.num_rows, deleted=0),
            search=tuning.search,
            recall=tuning.recall,
            coarse_error=mean_coarse_error(shards),
        )

    def _train(self, name: str) -> _TrainedIndex:
        config, ids = self.config, self.collection.sorted_ids
        num_rows, dim = len(ids), self.collection.read(ids[:1]).shape[1]
        factory = faiss_io.choose_factory(config.factory, config.nlist, num_rows, dim)
        max_rows = max(config.train_rows, faiss_io.POINTS_PER_LIST * faiss_io.parse_nlist(factory))
        sampled_ids = [ids[position] for position in sample_rows(num_rows, max_rows, config.seed)]
        sample = np.concatenate([block for _, block in self.collection.iter_blocks(sampled_ids)])
        index = faiss_io.train_ivf(factory, sample, config.seed)
        trained_index = self.staging.add_object(name, lambda path: faiss_io.write_trained_index(index, path))
        return _TrainedIndex(factory=factory, trained_index=trained_index)

    def _build_shards(self, trained_index: ObjectRef) -> list[ShardManifest]:
        shards: list[ShardManifest] = []
        shard_numbers = self.rows["key"].to_numpy() % self.config.shards  # the key alone selects the shard
        for number in range(self.config.shards):
            name = f"{self.kind}/shard-{number:04d}"
            rows = self.rows.filter(pa.array(shard_numbers == number))
            shards.append(build_shard(self.staging, name, self.collection, rows, trained_index, role="base"))
            self.on_step(name)
        return shards

    def _tune(self, lists: ShardedIVF, queries: np.ndarray, factory: str) -> _Tuning:
        id_by_key = dict(zip(self.rows["key"].to_pylist(), self.rows["id"].to_pylist(), strict=True))
        rescore = faiss_io.choose_rescore(self.config.rescore, factory)
        target, seed = self.config.target_recall, self.config.seed
        recall = tune_nprobe(self.collection, id_by_key, lists, queries, target, seed, rescore)
        return _Tuning(search=SearchParams(nprobe=recall.nprobe, rescore=rescore), recall=recall)
