"""Export of a version as plain files: a FAISS index with 64-bit ids, its metadata as Parquet, its vectors as .npy."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.io import atomic_write_together, check_output_file, is_within, remove_stale_temporaries, restore_together
from index.ivf.deleted_keys import read_deleted_keys
from index.ivf.distance import float16_to_float32
from index.ivf.faiss_io import read_trained_index, write_trained_index
from index.ivf.vectors import VECTOR_DTYPE, ShardVectors
from index.versions.folder import check_objects
from index.versions.manifest import CollectionManifest, Manifest
from index.versions.objects import object_path
from index.versions.reader_lock import lock_manifest

VECTORS_SHA256 = "vectors_sha256"  # key in the footer of KIND.parquet: hash of the values of KIND.npy
SUFFIXES = ("index", "parquet", "npy")


def export_index(root: Path, output: Path, version: int | None = None, force: bool = False) -> list[Path]:
    """Write the live rows of every collection of a version to plain files; return their paths.

    KIND.index    one IVF index for `faiss.read_index`, with its nprobe set; ids are the keys; built in memory
    KIND.parquet  one row per item, in the order of KIND.npy; the column `key` is the id in KIND.index
    KIND.npy      (n, d) float16 vectors

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
    paths = [output / f"{kind}.{suffix}" for kind in manifest.collections for suffix in SUFFIXES]
    restore_together(paths)
    for path in paths:
        check_output_file(path, force)
    check_objects(root, manifest)
    remove_stale_temporaries(output, paths)
    with atomic_write_together(paths) as temporaries:
        for number, collection in enumerate(manifest.collections.values()):
            _write_collection(root, collection, temporaries[number * len(SUFFIXES) :])
    return paths


def _write_collection(root: Path, collection: CollectionManifest, paths: Sequence[Path]) -> None:
    """Write one collection to its three files, in the order of `SUFFIXES`."""
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
            rows = pq.read_table(object_path(root, shard.metadata))
            rows = rows.filter(~np.isin(rows["key"].to_numpy(), deleted_keys))
            writer = writer or files.enter_context(pq.ParquetWriter(rows_path, rows.schema, compression="zstd"))
            writer.write_table(rows)
            for keys, vectors in ShardVectors(object_path(root, shard.vectors)).blocks(deleted_keys):
                file.write(vectors.tobytes())
                hasher.update(vectors.tobytes())
                index.add_with_ids(float16_to_float32(vectors), keys)  # encodes the vectors as in the shards
        if writer is not None:
            writer.add_key_value_metadata({VECTORS_SHA256: hasher.hexdigest()})
    write_trained_index(index, index_path)
