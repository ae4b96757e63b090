"""A version as plain files: faiss's own index with 64-bit ids, Parquet that says what they are, vectors as .npy."""

from contextlib import ExitStack, closing
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq

from data.files import atomic
from index import shards
from index.hold import taken
from index.lists import widened
from index.manifest import About, Manifest, check_objects
from index.objects import object_path
from index.parts import read_dead
from index.vectors import VECTORS, ShardVectors

WHOLE = ("index", "parquet", "npy")


def export(root: Path, to: Path, version: int | None = None, force: bool = False) -> list[Path]:
    """Write KIND.index, KIND.parquet and KIND.npy of every collection of a version into a folder; return their paths.

    KIND.index    what `faiss.read_index` reads: one inverted file, its nprobe set, ids the keys; made in memory
    KIND.parquet  a row an item, in the order of KIND.npy: the column `key` is the id inside faiss
    KIND.npy      (n, d) float16 vectors

    Dead rows are left out. Every object is compared with its hash first, and a file appears whole. Raises ValueError
    if one is there already (unless `force`), or if the version is damaged.
    """
    root, to = Path(root), Path(to)
    manifest, held = taken(root, version)
    with closing(held):
        return _written(root, manifest, to, force)


def _written(root: Path, manifest: Manifest, to: Path, force: bool) -> list[Path]:
    paths = [to / f"{kind}.{suffix}" for kind in manifest.collections for suffix in WHOLE]
    there = [path for path in paths if path.exists()]
    if there and not force:
        raise ValueError(f"{there[0]} is there already: give another folder, or --force to write over it.")
    check_objects(root, manifest)
    for kind, about in manifest.collections.items():
        _export(root, about, to, kind)
    return paths


def _export(root: Path, about: About, to: Path, kind: str) -> None:
    dead = read_dead(root, about.dead)
    index = faiss.read_index(str(object_path(root, about.template)))
    index.nprobe = about.search.nprobe
    with ExitStack() as files:
        rows_path = files.enter_context(atomic(to / f"{kind}.parquet"))
        vectors_path = files.enter_context(atomic(to / f"{kind}.npy"))
        file = files.enter_context(open(vectors_path, "wb"))
        shape = (about.counts.live, about.dim)
        np.lib.format.write_array_header_1_0(file, {"descr": VECTORS.str, "fortran_order": False, "shape": shape})
        writer = None
        for shard in about.shards:
            rows = pq.read_table(object_path(root, shard.metadata))
            rows = rows.filter(~np.isin(rows["key"].to_numpy(), dead))
            writer = writer or files.enter_context(pq.ParquetWriter(rows_path, rows.schema, compression="zstd"))
            writer.write_table(rows)
            for keys, vectors in ShardVectors(object_path(root, shard.vectors)).blocks(dead):
                file.write(vectors.tobytes())
                index.add_with_ids(widened(vectors), keys)  # the codes that the shards have
    with atomic(to / f"{kind}.index") as path:
        shards.write_template(index, path)
