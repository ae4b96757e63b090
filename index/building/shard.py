"""Parts of a version from their content: a shard of lists, vectors and rows; the dead; the name of a generation."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.io import digest
from index.collection import Collection
from index.ivf import faiss_io as shards
from index.ivf.distance import float16_to_float32
from index.ivf.vectors import ShardVectors, write_vectors
from index.metadata.schema import SCHEMA
from index.metadata.tables import write_lookup, write_parquet
from index.versions.manifest import CollectionManifest, ShardManifest
from index.versions.objects import ObjectRef, Staging, check_object, object_path

SAMPLE = 4096  # rows of a shard that its coarse error is measured on


def build_shard(
    staging: Staging,
    name: str,
    collection: Collection,
    content: pa.Table,
    template: ObjectRef,
    role: Literal["base", "delta"] = "delta",
) -> ShardManifest:
    """The shard of the rows `content` (see `metadata.table`): vectors from the collection, lists from those vectors.

    So a shard that is made again of its own vectors has the same bytes. What an earlier run has made is found again.
    """

    def make() -> ShardManifest:
        names, keys = content["id"].to_pylist(), content["key"].to_numpy()
        rows = (vectors for _, vectors in collection.iter_blocks(names))
        dim = shards.read_dim(object_path(staging.root, template))
        vectors = staging.add_object(f"{name}.vectors", lambda path: write_vectors(path, keys, dim, rows))
        lists = staging.add_object(
            f"{name}.lists",
            lambda path: shards.write_inverted_lists(
                object_path(staging.root, template), path, _widened(object_path(staging.root, vectors))
            ),
        )
        return ShardManifest(
            role=role,
            rows=len(names),
            inverted_lists=lists,
            vectors=vectors,
            metadata=staging.add_object(f"{name}.parquet", lambda path: write_parquet(path, content)),
            lookup=staging.add_object(f"{name}.sqlite", lambda path: write_lookup(path, content)),
            coarse_error=_coarse_error(object_path(staging.root, template), object_path(staging.root, vectors)),
        )

    return staging.run_step(name, ShardManifest, make)


def _coarse_error(template: Path, vectors: Path) -> float:
    stored = ShardVectors(vectors).vectors
    some = np.linspace(0, len(stored), min(len(stored), SAMPLE), endpoint=False, dtype=np.int64)
    return shards.compute_coarse_error(template, np.asarray(stored[some], np.float32))


def mean_coarse_error(parts: Iterable[ShardManifest]) -> float:
    """That of all rows of some shards; 0 without rows."""
    parts = list(parts)
    rows = sum(part.rows for part in parts)
    return round(sum(part.coarse_error * part.rows for part in parts) / rows, 6) if rows else 0.0


def read_metadata(root: Path, kind: str, about: CollectionManifest) -> pa.Table:
    """The metadata of every row that the shards of a collection hold, dead ones too; objects are checked."""
    paths = [check_object(root, part.metadata, f"{kind} metadata of shard {i}") for i, part in enumerate(about.shards)]
    return pa.concat_tables(pq.read_table(path, schema=SCHEMA) for path in paths)


def _widened(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((np.asarray(keys), float16_to_float32(vectors)) for keys, vectors in ShardVectors(path).blocks())


def compute_vector_space(provenance: Mapping[str, Any], template: ObjectRef) -> str:
    """12 hex digits that name what may lie in one collection: vectors of one origin under one trained quantizer."""
    return digest({"provenance": dict(provenance), "template": template.sha256})
