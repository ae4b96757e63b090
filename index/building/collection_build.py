"""Build of one collection from its vectors: train the quantizer, write the base shards, choose nprobe."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from index.building.alignment import make_alignment
from index.building.calibration import CalibrationStep, find_other_calibration, prepare_calibration
from index.building.publish import OnStep
from index.building.shard import build_shard, compute_vector_space, mean_coarse_error
from index.collection import Collection, IndexInputs
from index.config import EXACT_CODES, IndexConfig, QuerySource
from index.ivf import faiss_io
from index.ivf.distance import check_unit_norm
from index.ivf.sharded_ivf import ShardedIVF
from index.ivf.vectors import MappedVectors
from index.metadata.tables import build_table, table_digest
from index.tuning.nprobe import SearchTuner, sample_rows
from index.versions.calibration import ScoreCalibration
from index.versions.manifest import (
    AlignmentInfo,
    CollectionManifest,
    RecallReport,
    RowCounts,
    SearchParams,
    ShardManifest,
)
from index.versions.objects import ManifestModel, ObjectRef, Staging, object_path


class _TrainedIndex(ManifestModel):
    """Result of training: the object, and the factory string with "auto" and "{nlist}" replaced."""

    factory: str
    trained_index: ObjectRef


class _Tuning(ManifestModel):
    search: SearchParams
    recall: RecallReport


@dataclass(frozen=True)
class CollectionBuild:
    """One collection with everything that determines its files."""

    kind: str
    config: IndexConfig
    collection: Collection
    rows: pa.Table
    """metadata, sorted by key"""
    queries: np.ndarray
    """(q, d) float32"""
    query_source: QuerySource
    dim: int
    vector_digest: str
    """SHA-256 of ids, vectors and row vectors"""
    alignment: AlignmentInfo | None
    calibration: CalibrationStep | None
    other_calibration: ScoreCalibration | None
    """that of another index with the same items, for a collection without a step"""

    @property
    def facts(self) -> dict[str, str]:
        """Digests of the inputs: equal facts give equal files."""
        facts = {
            "vectors": self.vector_digest,
            "queries": sha256(self.queries.tobytes()).hexdigest(),
            "metadata": table_digest(self.rows),
            "query_source": self.query_source,
            "calibration": "" if self.calibration is None else self.calibration.digest,
        }
        if self.other_calibration is not None:
            facts["other_calibration"] = self.other_calibration.model_dump_json()
        if self.alignment is not None:
            facts["alignment"] = self.alignment.model_dump_json()
        if self.config.factory == "auto" and not self.factory.endswith(EXACT_CODES):
            facts["factory"] = self.factory  # the choice may change with the program
        return facts

    @property
    def factory(self) -> str:
        """The factory string, with "auto" and "{nlist}" replaced."""
        return faiss_io.choose_factory(self.config.factory, self.config.nlist, self.rows.num_rows, self.dim)

    def run(self, staging: Staging, on_step: OnStep, provenance: dict[str, Any]) -> CollectionManifest:
        """Write the objects of the collection; return its part of the manifest."""
        name = f"{self.kind}/trained-index"
        trained = staging.run_step(name, _TrainedIndex, lambda: self._train(staging, name))
        on_step(name)
        shards = self._build_shards(staging, on_step, trained.trained_index)
        path = object_path(staging.root, trained.trained_index)
        lists = ShardedIVF(
            path,
            [object_path(staging.root, shard.inverted_lists) for shard in shards],
            vectors=MappedVectors([object_path(staging.root, shard.vectors) for shard in shards], self.dim),
        )
        tuning = staging.run_step(f"{self.kind}/tuned", _Tuning, lambda: self._tune(lists, trained.factory))
        on_step(f"{self.kind}/tuned")
        return CollectionManifest(
            dim=self.dim,
            factory=trained.factory,
            nlist=lists.nlist,
            vector_space=compute_vector_space(provenance, trained.trained_index),
            trained_index=trained.trained_index,
            shards=shards,
            counts=RowCounts(live=self.rows.num_rows, deleted=0),
            search=tuning.search.model_copy(update={"rerank": self.config.rerank if self.alignment else 0}),
            alignment=self.alignment,
            recall=tuning.recall,
            calibration=self.calibration.run(staging, on_step) if self.calibration else self.other_calibration,
            coarse_error=mean_coarse_error(shards),
        )

    def _train(self, staging: Staging, name: str) -> _TrainedIndex:
        config, ids, factory = self.config, self.collection.sorted_ids, self.factory
        max_rows = max(config.train_rows, faiss_io.POINTS_PER_LIST * faiss_io.parse_nlist(factory))
        sampled_ids = [ids[position] for position in sample_rows(len(ids), max_rows, config.seed)]
        sample = np.concatenate([block for _, block in self.collection.iter_blocks(sampled_ids)])
        index = faiss_io.train_ivf(factory, sample, config.seed)
        trained_index = staging.add_object(name, lambda path: faiss_io.write_trained_index(index, path))
        return _TrainedIndex(factory=factory, trained_index=trained_index)

    def _build_shards(self, staging: Staging, on_step: OnStep, trained_index: ObjectRef) -> list[ShardManifest]:
        shards: list[ShardManifest] = []
        shard_numbers = self.rows["key"].to_numpy() % self.config.shards  # the key alone selects the shard
        for number in range(self.config.shards):
            name = f"{self.kind}/shard-{number:04d}"
            rows = self.rows.filter(pa.array(shard_numbers == number))
            shards.append(build_shard(staging, name, self.collection, rows, trained_index, role="base"))
            on_step(name)
        return shards

    def _tune(self, lists: ShardedIVF, factory: str) -> _Tuning:
        id_by_key = dict(zip(self.rows["key"].to_pylist(), self.rows["id"].to_pylist(), strict=True))
        tuner = SearchTuner(self.collection, id_by_key, lists, self.queries, self.config.seed)
        target, rescore = self.config.target_recall, self.config.rescore
        if rescore is None:
            rescore = tuner.choose_rescore(target) if faiss_io.is_fast_scan(factory) else 0
        recall = tuner.tune_nprobe(target, rescore).model_copy(update={"query_source": self.query_source})
        return _Tuning(search=SearchParams(nprobe=recall.nprobe, rescore=rescore), recall=recall)


def prepare_builds(config: IndexConfig, inputs: IndexInputs) -> dict[str, CollectionBuild]:
    """Check the inputs of all collections, and read every vector once.

    Returns:
        By kind, the build of its collection.

    Raises:
        ValueError: An item cannot be indexed; the message names the first.
    """
    vector_digests, dims = {}, {}
    for kind, collection in inputs.collections.items():
        collection.check(kind)
        if kind not in inputs.queries:
            raise ValueError(
                f"There are no queries for {kind!r}. Pass held-out vectors of the other kind to measure recall."
            )
        vector_digests[kind], dims[kind] = collection.hash_vectors(kind)
    if len(set(dims.values())) > 1:
        all_dims = ", ".join(f"{name} {d}" for name, d in dims.items())
        raise ValueError(f"The collections have different dimensions ({all_dims}). Embed both with one model.")
    return {
        kind: CollectionBuild(
            kind=kind,
            config=config,
            collection=collection,
            rows=build_table(kind, collection.metadata),
            queries=_select_queries(kind, inputs.queries[kind], dims, config),
            query_source=inputs.query_sources.get(kind, "held-out"),
            dim=dims[kind],
            vector_digest=vector_digests[kind],
            alignment=make_alignment(kind, inputs),
            calibration=prepare_calibration(kind, inputs, config),
            other_calibration=find_other_calibration(kind, inputs),
        )
        for kind, collection in inputs.collections.items()
    }


def _select_queries(kind: str, queries: np.ndarray, dims: Mapping[str, int], config: IndexConfig) -> np.ndarray:
    """Check the queries of a kind and return at most `tuning_queries` of them, (q, d) float32."""
    array = np.asarray(queries, np.float32)
    if array.ndim != 2 or array.shape[1] != dims[kind]:
        raise ValueError(
            f"The queries for {kind!r} have shape {array.shape}, but the vectors of the collection have {dims[kind]} "
            "numbers."
        )
    if len(array) < 2:
        raise ValueError(
            f"There are {len(array)} queries for {kind!r}. Pass at least 2: one half chooses nprobe, one measures."
        )
    check_unit_norm(array, f"query for {kind!r} in row", range(len(array)))
    if len(array) <= config.tuning_queries:
        return array
    return array[sample_rows(len(array), config.tuning_queries, config.seed)]  # `SearchTuner` splits them
