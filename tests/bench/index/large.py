"""A large index, built and gated as in normal use: time, size and memory, and a model fitted on smaller indexes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import GateConfig, IndexConfig
from index.ivf.faiss_io import POINTS_PER_LIST, choose_factory, parse_nlist
from index.metadata.schema import Row
from index.metadata.tables import build_table
from index.quality.checks import HeldOutQueries
from index.quality.gate import make_gate
from index.search.index import Index
from index.versions.folder import read_version_manifest
from index.versions.objects import object_path
from tests.bench.common import cpu, cpu_of

DIM, BLOCK = 256, 50_000
SIZES = (100_000, 200_000, 1_000_000)  # rows; the cost model is fitted to the first two and checked on the last
FURTHER = (10_000_000, 100_000_000, 1_000_000_000)  # rows
POINTS = 256  # maximum number of training rows per centroid in faiss's k-means
PARTS = ("prepare", "train", "shards", "tune", "gate")  # of a build, CPU seconds
SIZED = ("codes", "vectors", "metadata")  # of a version, bytes


def block(number: int) -> np.ndarray:
    """Return (BLOCK, DIM) float32 unit vectors of intrinsic dimension 64 around 3,000 centers."""
    rng, fixed = np.random.default_rng(number + 1), np.random.default_rng(0)
    centers, turn = fixed.standard_normal((3000, 64), np.float32), fixed.standard_normal((64, DIM), np.float32)
    found = (centers[rng.integers(0, 3000, BLOCK)] + rng.standard_normal((BLOCK, 64), np.float32)) @ turn
    return found / np.linalg.norm(found, axis=1, keepdims=True)


class Rows(Sequence):
    """Metadata rows that are created on access."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> Row:
        name = f"{range(self._count)[position]:010d}"
        return Row("image", name, name, path=f"images/{name}.jpg", split="train")

    def __iter__(self) -> Iterator[Row]:
        return (self[position] for position in range(self._count))


def large(folder: Path) -> None:
    """Measure builds with factory `auto` and a gate, and predict larger ones by the cost model."""
    measured = [_apart(folder / f"{rows}", rows) for rows in SIZES]
    small, more, big = measured
    names = [*(f"{part} CPU s" for part in PARTS), *(f"{part} MB" for part in SIZED)]
    table = Table("rows", "lists", *names, "peak MiB", "", title=f"x {DIM}, {small['code']}, {small['parts']} shards")
    for found in measured:
        table.add_row(*_cells(found), f"{found['peak']:,.0f}", "measured")
    for rows in (big["rows"], *FURTHER):
        table.add_row(*_cells(_model(small, more, rows)), "", "model")
    Console(width=160).print(table)
    for found in measured:
        print(
            f"{found['rows']:,} rows: recall@10 {found['recall']:.3f}, target 0.99, {found['nprobe']} lists probed; "
            f"CPU ms per query {found['single']:.2f}, {found['batch']:.2f} at 64"
        )


def _apart(folder: Path, rows: int) -> dict[str, Any]:
    """Run `one` in a new process, so that its peak memory can be measured."""
    code = f"from pathlib import Path; from tests.bench.index.large import one; one(Path({str(folder)!r}), {rows})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one(folder: Path, rows: int) -> None:
    """Build an index of `rows` rows in this process; print its costs as a line of JSON."""
    faiss.omp_set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "vectors", "wb") as file:
        for number in range(rows // BLOCK):
            block(number).astype(np.float16).tofile(file)
    queries = block(rows // BLOCK)[:1000]  # from the distribution of the rows, but none of the rows
    with open(folder / "vectors", "rb") as file:

        def read(names: list[str]) -> np.ndarray:  # not mapped, because mapped pages would count as memory
            pieces = [os.pread(file.fileno(), 2 * DIM, 2 * DIM * int(name)) for name in names]
            return np.frombuffer(b"".join(pieces), np.float16).reshape(len(names), DIM)

        source = Collection([f"{number:010d}" for number in range(rows)], read, Rows(rows))
        found = _built(folder / "index", source, queries) | {"rows": rows}
    found["peak"] = _peak()
    with Index.open(folder / "index") as index:
        found["single"] = 1e3 * cpu(lambda: [index.search(queries[i : i + 1], 10) for i in range(64)]) / 64
        found["batch"] = 1e3 * cpu(lambda: [index.search(queries[i : i + 64], 10) for i in range(0, 256, 64)]) / 256
    print(json.dumps(found))


def _peak() -> float:
    """Return the peak memory of this process in MiB; `ru_maxrss` would include memory of its parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _built(root: Path, source: Collection, queries: np.ndarray) -> dict[str, Any]:
    """Return CPU seconds of the parts of a build, bytes of the parts of its result, and the settings that it chose."""

    def prepare() -> None:
        source.check("image")
        source.hash_vectors("image")
        build_table("image", source.metadata)

    prepared, _ = cpu_of(prepare)
    ended, began = {}, time.process_time()
    gate = make_gate(GateConfig(), {"image": HeldOutQueries(queries)}, {"image": source})
    seen = lambda step: ended.update({step: time.process_time() - began})  # noqa: E731
    build_index(IndexConfig(), IndexInputs({"image": source}, {"image": queries}), root, on_step=seen, gate=gate)
    whole, template, tuned = time.process_time() - began, ended["image/trained-index"], ended["image/tuned"]
    shards = max(at for step, at in ended.items() if "/shard-" in step)
    costs = (prepared, template - prepared, shards - template, tuned - shards, whole - tuned)
    about, some = read_version_manifest(root).collections["image"], block(0)
    trained = faiss.read_index(str(object_path(root, about.trained_index)))
    assign, _ = cpu_of(lambda: trained.quantizer.assign(some, 1))
    kept = ("inverted_lists", "vectors", "metadata", "lookup")
    codes, vectors, *said = (sum(getattr(shard, part).bytes for shard in about.shards) for part in kept)
    found = dict(zip(PARTS, costs, strict=True)) | {"assign": assign / BLOCK}
    found |= dict(zip(SIZED, (codes + about.trained_index.bytes, vectors, sum(said)), strict=True))
    found |= {"nlist": about.nlist, "code": about.factory.split(",")[-1], "parts": len(about.shards)}
    return found | {"recall": about.recall.recall, "nprobe": about.search.nprobe}


def _model(small: dict[str, Any], more: dict[str, Any], rows: int) -> dict[str, Any]:
    """Predict the cost of a size from those of two smaller ones.

    Training is a product of points and centroids, and a row is compared with every centroid; all else is a constant and
    a cost per row. Fast-scan codes are in blocks of 32 rows, and each list of each shard leaves half a block empty on
    average. Centroids are counted with the codes.
    """

    def products(count: int, nlist: int) -> int:
        return min(count, max(IndexConfig().train_rows, POINTS_PER_LIST * nlist), POINTS * nlist) * nlist

    def line(part: str) -> float:
        slope = (more[part] - small[part]) / (more["rows"] - small["rows"])
        return small[part] + slope * (rows - small["rows"])

    lists = parse_nlist(choose_factory("auto", None, rows, DIM))
    found = {"rows": rows, "nlist": lists} | {part: line(part) for part in (*PARTS, *SIZED)}
    found["train"] = more["train"] * products(rows, lists) / products(more["rows"], more["nlist"])
    found["shards"] += more["assign"] * rows * (lists / more["nlist"] - 1)
    found["codes"] = DIM // 8 * (rows + 16 * lists * more["parts"]) + 8 * rows + 4 * DIM * lists
    return found


def _cells(found: dict[str, Any]) -> list[str]:
    costs, sizes = [found[part] for part in PARTS], [found[part] / 1e6 for part in SIZED]
    return [f"{found['rows']:,}", f"{found['nlist']:,}", *(f"{number:,.1f}" for number in (*costs, *sizes))]
