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
from index.quality.checks import GateQueries
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


def make_block(number: int) -> np.ndarray:
    """Return (BLOCK, DIM) float32 unit vectors of intrinsic dimension 64 around 3,000 centers."""
    rng, fixed_rng = np.random.default_rng(number + 1), np.random.default_rng(0)
    centers, projection = (
        fixed_rng.standard_normal((3000, 64), np.float32),
        fixed_rng.standard_normal((64, DIM), np.float32),
    )
    result = (centers[rng.integers(0, 3000, BLOCK)] + rng.standard_normal((BLOCK, 64), np.float32)) @ projection
    return result / np.linalg.norm(result, axis=1, keepdims=True)


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
    measured = [_run_in_new_process(folder / f"{rows}", rows) for rows in SIZES]
    small, medium, large_result = measured
    names = [*(f"{name} CPU s" for name in PARTS), *(f"{name} MB" for name in SIZED)]
    table = Table("rows", "lists", *names, "peak MiB", "", title=f"x {DIM}, {small['code']}, {small['parts']} shards")
    for result in measured:
        table.add_row(*_cells(result), f"{result['peak']:,.0f}", "measured")
    for rows in (large_result["rows"], *FURTHER):
        table.add_row(*_cells(_predict(small, medium, rows)), "", "model")
    Console(width=160).print(table)
    for result in measured:
        print(
            f"{result['rows']:,} rows: recall@10 {result['recall']:.3f}, target 0.99, {result['nprobe']} lists probed; "
            f"CPU ms per query {result['single']:.2f}, {result['batch']:.2f} at 64"
        )


def _run_in_new_process(folder: Path, rows: int) -> dict[str, Any]:
    """Run `measure_build` in a new process, so that its peak memory can be measured."""
    code = "from pathlib import Path; from tests.bench.index.large import measure_build; "
    code += f"measure_build(Path({str(folder)!r}), {rows})"
    process = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def measure_build(folder: Path, rows: int) -> None:
    """Build an index of `rows` rows in this process; print its costs as a line of JSON."""
    faiss.omp_set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "vectors", "wb") as file:
        for number in range(rows // BLOCK):
            make_block(number).astype(np.float16).tofile(file)
    queries = make_block(rows // BLOCK)[:1000]  # from the distribution of the rows, but none of the rows
    with open(folder / "vectors", "rb") as file:

        def read(names: list[str]) -> np.ndarray:  # not mapped, because mapped pages would count as memory
            pieces = [os.pread(file.fileno(), 2 * DIM, 2 * DIM * int(name)) for name in names]
            return np.frombuffer(b"".join(pieces), np.float16).reshape(len(names), DIM)

        source = Collection([f"{number:010d}" for number in range(rows)], read, Rows(rows))
        result = _measure_parts(folder / "index", source, queries) | {"rows": rows}
    result["peak"] = _peak()
    with Index.open(folder / "index") as index:
        result["single"] = 1e3 * cpu(lambda: [index.search(queries[i : i + 1], 10) for i in range(64)]) / 64
        result["batch"] = 1e3 * cpu(lambda: [index.search(queries[i : i + 64], 10) for i in range(0, 256, 64)]) / 256
    print(json.dumps(result))


def _peak() -> float:
    """Return the peak memory of this process in MiB; `ru_maxrss` would include memory of its parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _measure_parts(root: Path, source: Collection, queries: np.ndarray) -> dict[str, Any]:
    """Return CPU seconds of the parts of a build, bytes of the parts of its result, and the settings that it chose."""

    def prepare() -> None:
        source.check("image")
        source.hash_vectors("image")
        build_table("image", source.metadata)

    prepared, _ = cpu_of(prepare)
    end_times, start = {}, time.process_time()
    gate = make_gate(GateConfig(), {"image": GateQueries(queries)}, {"image": source})
    record_step = lambda step: end_times.update({step: time.process_time() - start})  # noqa: E731
    build_index(IndexConfig(), IndexInputs({"image": source}, {"image": queries}), root, on_step=record_step, gate=gate)
    total, trained_end, tuned_end = (
        time.process_time() - start,
        end_times["image/trained-index"],
        end_times["image/tuned"],
    )
    shards = max(seconds for step, seconds in end_times.items() if "/shard-" in step)
    costs = (prepared, trained_end - prepared, shards - trained_end, tuned_end - shards, total - tuned_end)
    collection, sample = read_version_manifest(root).collections["image"], make_block(0)
    trained = faiss.read_index(str(object_path(root, collection.trained_index)))
    assign, _ = cpu_of(lambda: trained.quantizer.assign(sample, 1))
    object_names = ("inverted_lists", "vectors", "metadata", "lookup")
    codes, vectors, *metadata_bytes = (
        sum(getattr(shard, name).bytes for shard in collection.shards) for name in object_names
    )
    result = dict(zip(PARTS, costs, strict=True)) | {"assign": assign / BLOCK}
    result |= dict(zip(SIZED, (codes + collection.trained_index.bytes, vectors, sum(metadata_bytes)), strict=True))
    result |= {"nlist": collection.nlist, "code": collection.factory.split(",")[-1], "parts": len(collection.shards)}
    return result | {"recall": collection.recall.recall, "nprobe": collection.search.nprobe}


def _predict(small: dict[str, Any], medium: dict[str, Any], rows: int) -> dict[str, Any]:
    """Predict the cost of a size from those of two smaller ones.

    Training is a product of points and centroids, and a row is compared with every centroid; all else is a constant and
    a cost per row. Fast-scan codes are in blocks of 32 rows, and each list of each shard leaves half a block empty on
    average. Centroids are counted with the codes.
    """

    def products(count: int, nlist: int) -> int:
        return min(count, max(IndexConfig().train_rows, POINTS_PER_LIST * nlist), POINTS * nlist) * nlist

    def line(name: str) -> float:
        slope = (medium[name] - small[name]) / (medium["rows"] - small["rows"])
        return small[name] + slope * (rows - small["rows"])

    lists = parse_nlist(choose_factory("auto", None, rows, DIM))
    result = {"rows": rows, "nlist": lists} | {name: line(name) for name in (*PARTS, *SIZED)}
    result["train"] = medium["train"] * products(rows, lists) / products(medium["rows"], medium["nlist"])
    result["shards"] += medium["assign"] * rows * (lists / medium["nlist"] - 1)
    result["codes"] = DIM // 8 * (rows + 16 * lists * medium["parts"]) + 8 * rows + 4 * DIM * lists
    return result


def _cells(result: dict[str, Any]) -> list[str]:
    costs, sizes = [result[name] for name in PARTS], [result[name] / 1e6 for name in SIZED]
    return [f"{result['rows']:,}", f"{result['nlist']:,}", *(f"{number:,.1f}" for number in (*costs, *sizes))]
