"""A large index: what `auto` makes of many rows; a model of size and build time, fitted on a tenth, checked on all."""

import resource
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from index import Collection, Index, IndexConfig, build
from index.lists import Lists
from index.manifest import read_manifest
from index.shards import POINTS_PER_LIST, train, write_shard, write_template
from tests.bench.common import cpu, cpu_of

DIM, BLOCK, NITER = 256, 50_000, 10
SIZES = ((100_000, 1024), (1_000_000, 2048))  # rows, lists: the first is fitted, the second checked
AUTO = 200_000  # rows
FURTHER = ((10_000_000, 16_384), (100_000_000, 65_536), (1_000_000_000, 262_144))


def block(number: int) -> np.ndarray:
    """(BLOCK, DIM) float32 unit vectors of 64 true dimensions around 3,000 centres."""
    rng, fixed = np.random.default_rng(number + 1), np.random.default_rng(0)
    centres, turn = fixed.standard_normal((3000, 64), np.float32), fixed.standard_normal((64, DIM), np.float32)
    found = (centres[rng.integers(0, 3000, BLOCK)] + rng.standard_normal((BLOCK, 64), np.float32)) @ turn
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def large(folder: Path) -> None:
    """SQ8 codes, one file of lists: CPU seconds and bytes, measured and as the model of the smaller size says."""
    faiss.omp_set_num_threads(1)
    _auto(folder / "auto")
    table = Table("rows", "lists", "train CPU s", "add CPU s", "MB", "", title=f"x {DIM}, SQ8", title_justify="left")
    fitted: tuple[float, float, float] | None = None
    for rows, nlist in SIZES:
        trained, added, size, assign = _build(folder / f"{rows}", rows, nlist)
        table.add_row(f"{rows:,}", f"{nlist:,}", f"{trained:.1f}", f"{added:.1f}", f"{size / 1e6:.1f}", "measured")
        # a product of matrices: seconds a multiplication; encoding and writing: seconds a row
        fitted = fitted or (
            trained / (NITER * POINTS_PER_LIST * nlist * nlist * DIM),
            assign / (BLOCK * nlist * DIM),
            added / rows - assign / BLOCK,
        )
        _model(table, rows, nlist, fitted)
    for rows, nlist in FURTHER:
        _model(table, rows, nlist, fitted)
    Console(width=120).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Console().print(f"peak memory of the process {peak:,.0f} MiB, vectors are made by blocks of {BLOCK:,}")


def _auto(folder: Path) -> None:
    """A build with the default settings, published, opened and asked for hits with their metadata."""
    vectors = np.concatenate([block(i) for i in range(AUTO // BLOCK)]).astype(np.float16)
    names = [f"{number:07d}" for number in range(AUTO)]
    rows = Collection(names, vectors, [{"id": name, "image_id": name} for name in names])
    asked = block(AUTO // BLOCK)[:400]  # drawn as the rows are, and none of them
    spent, _ = cpu_of(lambda: build(IndexConfig(), {"image": rows}, {"image": asked}, folder))
    about = read_manifest(folder).collections["image"]
    size = about.template.bytes + sum(shard.lists.bytes + shard.vectors.bytes for shard in about.shards)
    with Index.open(folder) as index:
        single = cpu(lambda: [index.search(asked[i : i + 1], 10) for i in range(64)]) / 64
        batch = cpu(lambda: [index.search(asked[i : i + 64], 10) for i in range(0, 256, 64)]) / 256
    table = Table("auto", "nprobe", "recall@10", "ms, batch 1", "ms, batch 64", "build CPU s", "MB")
    table.title, table.title_justify = f"{AUTO:,} x {DIM}, {len(about.shards)} shards, target 0.99", "left"
    shown = (f"{1e3 * single:.3f}", f"{1e3 * batch:.3f}", f"{spent:.1f}", f"{size / 1e6:.1f}")
    told = f"{about.factory}, {about.search.rescore} rescored"
    table.add_row(told, f"{about.search.nprobe}", f"{about.recall['recall']:.3f}", *shown)
    Console(width=120).print(table)


def _build(folder: Path, rows: int, nlist: int) -> tuple[float, float, int, float]:
    """CPU seconds to train and to add, bytes, CPU seconds to assign one block; the vectors' making is not counted."""
    folder.mkdir()
    per = POINTS_PER_LIST * nlist // (rows // BLOCK) + 1
    sample = np.concatenate([block(i)[:per] for i in range(rows // BLOCK)])[: POINTS_PER_LIST * nlist]
    trained, index = cpu_of(lambda: train(f"IVF{nlist},SQ8", sample, 0))
    write_template(index, folder / "template")
    making, _ = cpu_of(lambda: block(0))
    one = block(0)
    assign, _ = cpu_of(lambda: index.quantizer.assign(one, 1))

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i in range(rows // BLOCK):
            yield np.arange(i * BLOCK, (i + 1) * BLOCK), block(i)

    added, _ = cpu_of(lambda: write_shard(folder / "template", folder / "lists", blocks()))
    assert Lists(folder / "template", [folder / "lists"]).ntotal == rows
    size = sum(path.stat().st_size for path in folder.iterdir())
    return trained, added - making * (rows // BLOCK), size, assign


def _model(table: Table, rows: int, nlist: int, fitted: tuple[float, float, float]) -> None:
    train_cost, assign_cost, row_cost = fitted
    trained = train_cost * NITER * POINTS_PER_LIST * nlist * nlist * DIM
    added = rows * (assign_cost * nlist * DIM + row_cost)
    size = rows * (DIM + 8) + 4 * DIM * nlist
    table.add_row(f"{rows:,}", f"{nlist:,}", f"{trained:,.1f}", f"{added:,.1f}", f"{size / 1e6:,.1f}", "model")
