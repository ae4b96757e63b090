"""Export of a version as plain files: a FAISS index with 64-bit ids, metadata as Parquet, all vectors as .npy."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.config import ColumnType
from data.io import atomic_write_together, check_output_file, is_within, remove_stale_temporaries, restore_together
from index.exchange.calibration import CALIBRATION
from index.ivf.deleted_keys import read_deleted_keys
from index.ivf.distance import float16_to_float32
from index.ivf.faiss_io import read_trained_index, write_trained_index
from index.ivf.row_vectors import ShardRowVectors, write_codes_header
from index.ivf.vectors import VECTOR_DTYPE, ShardVectors
from index.metadata.arrow_schema import SCHEMA
from index.metadata.tables import expand_columns
from index.versions.folder import check_objects
from index.versions.manifest import CollectionManifest, Manifest
from index.versions.objects import object_path
from index.versions.reader_lock import lock_manifest

VECTORS_SHA256 = "vectors_sha256"  # key in the footer of KIND.parquet: hash of the values of KIND.npy
ROWS_SHA256 = "row_vectors_sha256"  # key in the same footer: hash of the values of the three files of row vectors
ALIGNMENT_WEIGHT = "alignment_weight"  # key in the same footer, if there are row vectors
SUFFIXES = ("index", "parquet", "npy")
ROW_SUFFIXES = ("rows.npy", "row_weights.npy", "row_lengths.npy")


def export_index(root: Path, output: Path, version: int | None = None, force: bool = False) -> list[Path]:
    """Write the live rows of every collection of a version to plain files; return their paths.

    KIND.index    one IVF index for `faiss.read_index`, with its nprobe set; ids are the keys; built in memory
    KIND.parquet  one row per item, in the order of KIND.npy; the column `key` is the id in KIND.index; columns of the
                  user's own are columns with their types
    KIND.npy      (n, d) float16 vectors
    KIND.rows.npy, KIND.row_weights.npy, KIND.row_lengths.npy
                  if there are row vectors: (m, k) int8, (m,) float16, and (n,) int64 rows per item; the footer of
                  KIND.parquet has the weight of the alignment score

    The footer of KIND.parquet also has the calibration of the collection, if it has one.

    The files of the version are compared with their hashes first. Old files stay until all new ones are complete.

    Args:
        root: Folder of the index.
        output: Folder of the written files.
        version: Number of the version; None: the published version.
        force: Overwrite existing files.

    Raises:
        ValueError: A file exists and `force` is false, or the version is damaged.
    """
    root, output = Path(root), Path(output)
    if is_within(output, root):
        raise ValueError(f"{output} is in the index {root}. Pass another folder.")
    manifest, lock = lock_manifest(root, version)
    with closing(lock):
        return _write_collections(root, manifest, output, force)


def _write_collections(root: Path, manifest: Manifest, output: Path, force: bool) -> list[Path]:
    suffixes_by_kind = {kind: list_suffixes(collection) for kind, collection in manifest.collections.items()}
    paths = [output / f"{kind}.{suffix}" for kind, suffixes in suffixes_by_kind.items() for suffix in suffixes]
    restore_together(paths)
    for path in paths:
        check_output_file(path, force)
    check_objects(root, manifest)
    remove_stale_temporaries(output, paths)
    with atomic_write_together(paths) as temporaries:
        remaining = iter(temporaries)
        for kind, collection in manifest.collections.items():
            _write_collection(root, collection, manifest.columns, list(islice(remaining, len(suffixes_by_kind[kind]))))
    return paths


def list_suffixes(collection: CollectionManifest) -> tuple[str, ...]:
    """Return the suffixes of the files that an export of a collection has."""
    return SUFFIXES if collection.alignment is None else (*SUFFIXES, *ROW_SUFFIXES)


def _write_collection(
    root: Path, collection: CollectionManifest, types: Mapping[str, ColumnType], paths: Sequence[Path]
) -> None:
    """Write one collection to its files, in the order of `list_suffixes`."""
    index_path, rows_path, vectors_path = paths[: len(SUFFIXES)]
    deleted_keys = read_deleted_keys(root, collection.deleted)
    index = read_trained_index(object_path(root, collection.trained_index))
    index.nprobe = collection.search.nprobe
    with ExitStack() as files:
        file = files.enter_context(open(vectors_path, "wb"))
        shape = (collection.counts.live, collection.dim)
        np.lib.format.write_array_header_1_0(file, {"descr": VECTOR_DTYPE.str, "fortran_order": False, "shape": shape})
        writer, hasher = None, hashlib.sha256()
        for shard in collection.shards:
            rows = pq.read_table(object_path(root, shard.metadata), schema=SCHEMA)
            rows = expand_columns(rows.filter(~np.isin(rows["key"].to_numpy(), deleted_keys)), types)
            writer = writer or files.enter_context(pq.ParquetWriter(rows_path, rows.schema, compression="zstd"))
            writer.write_table(rows)
            for keys, vectors in ShardVectors(object_path(root, shard.vectors)).blocks(deleted_keys):
                file.write(vectors.tobytes())
                hasher.update(vectors.tobytes())
                index.add_with_ids(float16_to_float32(vectors), keys)  # encodes the vectors as in the shards
        if writer is not None:
            footer = {VECTORS_SHA256: hasher.hexdigest()}
            if collection.calibration is not None:
                footer[CALIBRATION] = collection.calibration.model_dump_json()
            if collection.alignment is not None:
                footer[ROWS_SHA256] = _write_row_vectors(root, collection, deleted_keys, paths[len(SUFFIXES) :])
                footer[ALIGNMENT_WEIGHT] = repr(collection.alignment.alignment_weight)
            writer.add_key_value_metadata(footer)
    write_trained_index(index, index_path)


def _write_row_vectors(
    root: Path, collection: CollectionManifest, deleted_keys: np.ndarray, paths: Sequence[Path]
) -> str:
    """Write the row vectors of a collection to its files, in the order of `ROW_SUFFIXES`; return their hash."""
    refs = [shard.row_vectors for shard in collection.shards if shard.row_vectors is not None]
    shards = [ShardRowVectors(object_path(root, ref)) for ref in refs]
    hasher, weights, lengths = hashlib.sha256(), list[np.ndarray](), list[np.ndarray]()
    dim = 0 if collection.alignment is None else collection.alignment.dim
    with open(paths[0], "wb") as file:
        write_codes_header(file, sum(shard.count_rows(deleted_keys) for shard in shards), dim)
        for block in (block for shard in shards for block in shard.blocks(deleted_keys)):
            file.write(block.codes.tobytes())
            hasher.update(block.codes.tobytes())
            weights.append(block.weights)
            lengths.append(block.lengths)
    for path, values in zip(paths[1:], (np.concatenate(weights), np.concatenate(lengths)), strict=True):
        with open(path, "wb") as file:
            np.lib.format.write_array(file, values, allow_pickle=False)
        hasher.update(values.tobytes())
    return hasher.hexdigest()
