"""This index compared with other libraries in one run: one thread, equal vectors, settings chosen by the same rule.

Our index is measured as users run it. `tern index tune` chooses the settings, the index is built, published and opened,
and `Index.search` returns hits with their metadata. The other libraries return numbers.

The vectors are synthetic: intrinsic dimension 64 around 3,000 centers of unequal weight, projected to 512, with noise.
Image-like queries have the distribution of the rows, text-like ones more noise and a shift. Compare rows only; the
recalls are not those of real images.
"""

import hashlib
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata.schema import Row
from index.search.index import Index
from index.tuning.autotune import measure_candidates
from index.tuning.choice import TuningLimits, choose_point
from index.tuning.nprobe import sample_rows, split_queries
from index.versions.folder import read_version_manifest
from pipeline.pages.tuning import format_table
from pipeline.stages.tune import MAX_SAMPLE_ROWS, TuningAdvice
from tests.bench.common import cpu_of

ROWS, DIM, QUERIES, K = 100_000, 512, 2000, 10
TUNING_QUERIES = 400  # queries for `tune`, whose time grows with them
ROUNDS = 10
LIMITS = TuningLimits(min_recall=0.95, max_memory_bytes=8e9, max_latency_s=5e-3)
EF_SEARCH = range(K, 1025)  # efSearch of graph indexes


def draw(rows: int, dim: int, queries: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return (rows, dim) float32 unit vectors, and text-like and image-like queries."""
    rng = np.random.default_rng(0)
    centers, projection, shift = rng.normal(size=(3000, 64)), rng.normal(size=(64, dim)), rng.normal(size=64)
    weights = np.arange(1, 3001) ** -0.7

    def sample(n: int, noise: float, shift_scale: float) -> np.ndarray:
        near = centers[rng.choice(3000, n, p=weights / weights.sum())]
        points = near + noise * rng.normal(size=(n, 64)) + shift_scale * shift
        vectors = points.astype(np.float32) @ projection.astype(np.float32)
        vectors += 2.4 * rng.standard_normal(vectors.shape, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return sample(rows, 1.0, 0), {"text": sample(queries, 1.3, 0.5), "image": sample(queries, 1.0, 0)}


def collection(vectors: np.ndarray, numbers: np.ndarray, changed: int = 0) -> Collection:
    """Return metadata rows of these numbers; the first `changed` ones have other content hashes."""
    ids = [f"{number:07d}.jpg" for number in numbers.tolist()]
    texts = [f"{name} changed" if position < changed else name for position, name in enumerate(ids)]
    rows = [
        Row("image", name, name, path=f"images/{name}", split="train", content_hash=_hash(text))
        for name, text in zip(ids, texts, strict=True)
    ]
    return Collection(ids, vectors[numbers], rows)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Built:
    """An index, and how to search it."""

    name: str
    search: Callable[[np.ndarray, int], Any]  # function of (q, d) queries and the setting
    settings: Sequence[int]  # from the cheapest to the best; a single one was chosen by the index itself
    build: float  # CPU seconds
    size: int  # bytes, without metadata
    setting: str = "nprobe"
    to_positions: Callable[[Any], Any] = np.asarray  # converts the result of a search to (q, 10) positions


def choose_config(vectors: np.ndarray, queries: dict[str, np.ndarray]) -> IndexConfig:
    """Return the settings that `tern index tune` recommends on a sample; print the Pareto front and the choice."""
    sample = vectors[sample_rows(len(vectors), MAX_SAMPLE_ROWS, 0)]
    seconds, points = cpu_of(lambda: measure_candidates(sample, queries, LIMITS, len(vectors)))
    chosen = {kind: choose_point(points, LIMITS, kind) for kind in queries}
    advice = TuningAdvice("image", len(sample), len(vectors), points, chosen)
    for line in format_table(advice):
        if line[0]:
            print("  ".join(cell.rjust(9) for cell in line))
    print(f"{' '.join(advice.settings)}   ({len(sample):,} rows, {seconds:.0f} CPU s to measure)")
    settings = dict(setting.removeprefix("index.").split("=", 1) for setting in advice.settings)
    return IndexConfig(**settings, target_recall=LIMITS.min_recall)


def build_ours(folder: Path, config: IndexConfig, vectors: np.ndarray, queries: dict[str, np.ndarray]) -> Built:
    """Build, publish and open our index; the build chooses nprobe."""
    rows = collection(vectors.astype(np.float16), np.arange(len(vectors)))
    seconds, _ = cpu_of(lambda: build_index(config, IndexInputs({"image": rows}, {"image": queries["text"]}), folder))
    opened_index, collection_manifest = Index.open(folder), read_version_manifest(folder).collections["image"]
    size = collection_manifest.trained_index.bytes + sum(
        shard.inverted_lists.bytes + shard.vectors.bytes for shard in collection_manifest.shards
    )
    name = f"ours, {collection_manifest.factory}, {config.shards} shard{'s' * (config.shards > 1)}"
    return Built(
        name + f", rescore {config.rescore}" * bool(config.rescore),
        lambda query_vectors, _: opened_index.search(query_vectors, K),
        [collection_manifest.search.nprobe],
        seconds,
        size,
        to_positions=lambda hits: [[int(hit.id[:7]) for hit in line] for line in hits],
    )


def build_faiss(vectors: np.ndarray, factory: str) -> Built:
    """Build a plain faiss index of a factory string."""
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)

    def make() -> None:
        index.train(vectors)
        index.add(vectors)

    seconds, _ = cpu_of(make)
    size = len(faiss.serialize_index(index))
    if "HNSW" in factory:
        search = lambda q, n: index.search(q, K, params=faiss.SearchParametersHNSW(efSearch=n))[1]  # noqa: E731
        return Built(f"faiss {factory}", search, EF_SEARCH, seconds, size, "efSearch")
    if "IVF" in factory:
        search = lambda q, n: index.search(q, K, params=faiss.SearchParametersIVF(nprobe=n))[1]  # noqa: E731
        return Built(f"faiss {factory}", search, range(1, index.nlist + 1), seconds, size)
    return Built(f"faiss {factory}, exact", lambda q, _: index.search(q, K)[1], [0], seconds, size, "")


def build_usearch(vectors: np.ndarray) -> Built:
    """Build a usearch index with float16 and its default connectivity, on two threads."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    seconds, _ = cpu_of(lambda: index.add(np.arange(len(vectors)), vectors, threads=2))

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        index.expansion_search = setting
        return index.search(queries, K, threads=1).keys.reshape(len(queries), -1)

    return Built("usearch f16", search, EF_SEARCH, seconds, len(index.save()), "expansion")


def build_hnswlib(vectors: np.ndarray) -> Built:
    """Build an hnswlib index with M 16 and efConstruction 128, on two threads."""
    import hnswlib

    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=128, M=16)
    seconds, _ = cpu_of(lambda: index.add_items(vectors, num_threads=2))

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        index.set_ef(setting)
        return index.knn_query(queries, K, num_threads=1)[0]

    return Built("hnswlib M16", search, EF_SEARCH, seconds, index.index_file_size(), "ef")


def candidates(folder: Path, vectors: np.ndarray, queries: dict[str, np.ndarray]) -> Iterable[Built]:
    """Build the indexes to compare, one by one; together they take about 2 GB."""
    config = choose_config(vectors, {kind: query_vectors[:TUNING_QUERIES] for kind, query_vectors in queries.items()})
    for shards in (1, 4):
        yield build_ours(folder / f"{shards}", config.model_copy(update={"shards": shards}), vectors, queries)
    yield build_faiss(vectors, "Flat")
    yield build_faiss(vectors, "SQfp16")
    yield build_faiss(vectors, "IVF1024,Flat")
    yield build_faiss(vectors, "HNSW32")
    if find_spec("usearch"):
        yield build_usearch(vectors)
    if find_spec("hnswlib"):
        yield build_hnswlib(vectors)


def index(folder: Path, rows: int = ROWS, dim: int = DIM) -> None:
    """Compare indexes with the setting that reaches 0.95 on half of the text-like queries; print recalls of the others.

    All are kept and timed in turn, round by round, and the minimum of the rounds is printed: other work on the machine
    only adds time, and most to searches that wait for memory.
    """
    faiss.omp_set_num_threads(1)
    start = time.perf_counter()
    vectors, queries = draw(rows, dim, QUERIES)
    truth = {
        kind: faiss.knn(query_vectors, vectors, K, faiss.METRIC_INNER_PRODUCT)[1]
        for kind, query_vectors in queries.items()
    }
    print(f"{rows:,} x {dim}, recall@{K} of {LIMITS.min_recall} for text-like queries")
    print(f"CPU ms per query, minimum of {ROUNDS} rounds in turn")
    measured = [_measure_recall(built, queries, truth) for built in candidates(folder, vectors, queries)]
    rounds = [[_measure_seconds(entry, queries["text"]) for entry in measured] for _ in range(ROUNDS)]
    single, batch = 1e3 * np.min(rounds, axis=0).T
    head = ("setting", "text-like", "image-like", "ms batch 1", "ms batch 64", "build CPU s", "MB")
    print(f"{'':<46}" + "".join(f"{name:>14}" for name in head))
    for entry, single_ms, batch_ms in zip(measured, single, batch, strict=True):
        cells = [
            *entry.cells,
            f"{single_ms:.3f}",
            f"{batch_ms:.3f}",
            f"{entry.built.build:.1f}",
            f"{entry.built.size / 1e6:.1f}",
        ]
        print(f"{entry.built.name:<46}" + "".join(f"{cell:>14}" for cell in cells))
    missing = [name for name in ("usearch", "hnswlib", "autofaiss") if not find_spec(name)]
    print(f"{time.perf_counter() - start:.0f} s in all; not installed: {', '.join(missing) or 'none'}")


@dataclass(frozen=True)
class Measured:
    """An index with its chosen setting, and the cells to print: the setting, and the recalls of the other half."""

    built: Built
    setting: int
    cells: list[str]


def _measure_recall(built: Built, queries: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> Measured:
    tuning_half, test_half = split_queries(QUERIES, 0, QUERIES)

    def recall(kind: str, half: np.ndarray, setting: int) -> float:
        positions, expected = built.to_positions(built.search(queries[kind][half], setting)), truth[kind][half]
        return float(np.mean([len({*a} & {*b}) / K for a, b in zip(positions, expected.tolist(), strict=True)]))

    settings = built.settings
    position = (
        bisect_left(settings, LIMITS.min_recall, key=lambda setting: recall("text", tuning_half, setting))
        if len(settings) > 1
        else 0
    )
    setting = settings[min(position, len(settings) - 1)]
    setting_text = f"{built.setting} {setting}" if built.setting else ""
    print(f"{built.name} is built: {built.build:.1f} CPU s", flush=True)
    return Measured(built, setting, [setting_text, *(f"{recall(kind, test_half, setting):.3f}" for kind in queries)])


def _measure_seconds(entry: Measured, query_vectors: np.ndarray) -> tuple[float, float]:
    """Return CPU seconds per query, one at a time and 64 at a time."""
    search, setting = entry.built.search, entry.setting
    single, _ = cpu_of(lambda: [search(query_vectors[i : i + 1], setting) for i in range(64)])
    batch, _ = cpu_of(lambda: [search(query_vectors[i : i + 64], setting) for i in range(0, 256, 64)])
    return single / 64, batch / 256
