"""Write one shard: vectors, inverted lists, metadata and row vectors; name the vector space of a collection."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.io import digest
from index.collection import Collection
from index.ivf.distance import float16_to_float32
from index.ivf.faiss_io import compute_coarse_error, read_dim, write_inverted_lists
from index.ivf.row_vectors import write_row_vectors
from index.ivf.vectors import ShardVectors, write_vectors
from index.metadata.arrow_schema import SCHEMA
from index.metadata.tables import write_lookup, write_parquet
from index.versions.manifest import CollectionManifest, ShardManifest
from index.versions.objects import ObjectRef, Staging, check_object, object_path

SAMPLE_ROWS = 4096  # rows of a shard that its coarse error is measured on


def build_shard(
    staging: Staging,
    name: str,
    collection: Collection,
    rows: pa.Table,
    trained_index: ObjectRef,
    role: Literal["base", "delta"] = "delta",
) -> ShardManifest:
    """Write a shard, or return the one that an interrupted run has written.

    The lists are encoded from the stored float16 vectors, so a shard rebuilt from its own vectors has the same bytes.

    Args:
        name: Name of the step, unique in the staging folder.
        collection: Source of the vectors, and of the row vectors if it has some.
        rows: Table of `build_table`, sorted by key.
        trained_index: The trained index of the collection.
    """

    def make() -> ShardManifest:
        ids, keys = rows["id"].to_pylist(), rows["key"].to_numpy()
        trained_path = object_path(staging.root, trained_index)
        dim = read_dim(trained_path)
        blocks = (vectors for _, vectors in collection.iter_blocks(ids))
        vectors = staging.add_object(f"{name}.vectors", lambda path: write_vectors(path, keys, dim, blocks))
        vectors_path = object_path(staging.root, vectors)
        lists = staging.add_object(
            f"{name}.lists", lambda path: write_inverted_lists(trained_path, path, _iter_float32(vectors_path))
        )

        def write_rows(path: Path) -> None:
            write_row_vectors(path, keys, collection.iter_row_blocks(ids))

        return ShardManifest(
            role=role,
            rows=len(ids),
            inverted_lists=lists,
            vectors=vectors,
            metadata=staging.add_object(f"{name}.parquet", lambda path: write_parquet(path, rows)),
            lookup=staging.add_object(f"{name}.sqlite", lambda path: write_lookup(path, rows)),
            row_vectors=None if collection.rows is None else staging.add_object(f"{name}.rows", write_rows),
            coarse_error=_measure_coarse_error(trained_path, vectors_path),
        )

    return staging.run_step(name, ShardManifest, make)


def _measure_coarse_error(trained_index: Path, vectors: Path) -> float:
    stored = ShardVectors(vectors).vectors
    positions = np.linspace(0, len(stored), min(len(stored), SAMPLE_ROWS), endpoint=False, dtype=np.int64)
    return compute_coarse_error(trained_index, np.asarray(stored[positions], np.float32))


def mean_coarse_error(shards: Iterable[ShardManifest]) -> float:
    """Return the coarse error of all rows of some shards; 0 without rows."""
    shards = list(shards)
    rows = sum(shard.rows for shard in shards)
    return round(sum(shard.coarse_error * shard.rows for shard in shards) / rows, 6) if rows else 0.0


def read_metadata(root: Path, kind: str, manifest: CollectionManifest) -> pa.Table:
    """Verify and read the metadata of all rows in the shards of a collection, deleted ones included.

    Args:
        root: Folder of the index.
        kind: Kind of the collection; error messages name it.
        manifest: Manifest of the collection.

    Returns:
        The rows in the order of the shards, with the columns of `SCHEMA`.

    Raises:
        FileNotFoundError: A metadata file is missing.
        ValueError: A metadata file is damaged.
    """
    paths = [
        check_object(root, shard.metadata, f"{kind} metadata of shard {i}") for i, shard in enumerate(manifest.shards)
    ]
    return pa.concat_tables(pq.read_table(path, schema=SCHEMA) for path in paths)


def _iter_float32(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((np.asarray(keys), float16_to_float32(vectors)) for keys, vectors in ShardVectors(path).blocks())


def compute_vector_space(provenance: Mapping[str, Any], trained_index: ObjectRef) -> str:
    """Return 12 hex digits of the provenance and the trained index; vectors of different spaces never mix."""
    return digest({"provenance": dict(provenance), "template": trained_index.sha256})
