"""A version as plain files: faiss's own index with 64-bit ids, Parquet that says what they are, vectors as .npy."""

from contextlib import ExitStack, closing
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq

from data.io import atomic_write
from index.ivf import faiss_io as shards
from index.ivf.deleted_keys import read_deleted_keys
from index.ivf.distance import float16_to_float32
from index.ivf.vectors import VECTOR_DTYPE, ShardVectors
from index.versions.folder import check_objects
from index.versions.manifest import CollectionManifest, Manifest
from index.versions.objects import object_path
from index.versions.reader_lock import lock_manifest

SUFFIXES = ("index", "parquet", "npy")


def export_index(root: Path, output: Path, version: int | None = None, force: bool = False) -> list[Path]:
    """Write KIND.index, KIND.parquet and KIND.npy of every collection of a version into a folder; return their paths.

    KIND.index    what `faiss.read_index` reads: one inverted file, its nprobe set, ids the keys; made in memory
    KIND.parquet  a row an item, in the order of KIND.npy: the column `key` is the id inside faiss
    KIND.npy      (n, d) float16 vectors

    Dead rows are left out. Every object is compared with its hash first, and a file appears whole. Raises ValueError
    if one is there already (unless `force`), or if the version is damaged.
    """
    root, output = Path(root), Path(output)
    manifest, held = lock_manifest(root, version)
    with closing(held):
        return _written(root, manifest, output, force)


def _written(root: Path, manifest: Manifest, to: Path, force: bool) -> list[Path]:
    paths = [to / f"{kind}.{suffix}" for kind in manifest.collections for suffix in SUFFIXES]
    there = [path for path in paths if path.exists()]
    if there and not force:
        raise ValueError(f"{there[0]} is there already: give another folder, or --force to write over it.")
    check_objects(root, manifest)
    for kind, about in manifest.collections.items():
        _export(root, about, to, kind)
    return paths


def _export(root: Path, about: CollectionManifest, to: Path, kind: str) -> None:
    dead = read_deleted_keys(root, about.deleted)
    index = faiss.read_index(str(object_path(root, about.trained_index)))
    index.nprobe = about.search.nprobe
    with ExitStack() as files:
        rows_path = files.enter_context(atomic_write(to / f"{kind}.parquet"))
        vectors_path = files.enter_context(atomic_write(to / f"{kind}.npy"))
        file = files.enter_context(open(vectors_path, "wb"))
        shape = (about.counts.live, about.dim)
        np.lib.format.write_array_header_1_0(file, {"descr": VECTOR_DTYPE.str, "fortran_order": False, "shape": shape})
        writer = None
        for shard in about.shards:
            rows = pq.read_table(object_path(root, shard.metadata))
            rows = rows.filter(~np.isin(rows["key"].to_numpy(), dead))
            writer = writer or files.enter_context(pq.ParquetWriter(rows_path, rows.schema, compression="zstd"))
            writer.write_table(rows)
            for keys, vectors in ShardVectors(object_path(root, shard.vectors)).blocks(dead):
                file.write(vectors.tobytes())
                index.add_with_ids(float16_to_float32(vectors), keys)  # the codes that the shards have
    with atomic_write(to / f"{kind}.index") as path:
        shards.write_trained_index(index, path)
