"""The index beside what users would pick instead: one run, one thread, the same vectors, knobs set by the same rule.

The vectors are synthetic: 64 true dimensions around 3,000 centres of unequal weight, turned into 512, with noise.
Image-like queries are drawn as the rows are, text-like ones with more noise and a shift. Compare rows; the recalls are
not those of photographs.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import faiss
import numpy as np

from index.ladder import RescoredRows
from index.shards import Lists, train, write_shard, write_template
from tests.bench.common import cpu, cpu_of

ROWS, DIM, QUERIES, AT, TARGET = 100_000, 512, 400, 10, 0.95
KNOBS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
Search = Callable[[np.ndarray, int], np.ndarray]  # (q, d) queries and the knob -> (q, 10) places


def draw(rows: int, dim: int, queries: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(rows, dim) float32 unit vectors; text-like and image-like queries."""
    rng = np.random.default_rng(0)
    centres, turn, shift = rng.normal(size=(3000, 64)), rng.normal(size=(64, dim)), rng.normal(size=64)
    weights = np.arange(1, 3001) ** -0.7

    def some(n: int, noise: float, moved: float) -> np.ndarray:
        near = centres[rng.choice(3000, n, p=weights / weights.sum())]
        found = (near + noise * rng.normal(size=(n, 64)) + moved * shift).astype(np.float32) @ turn.astype(np.float32)
        found += 2.4 * rng.standard_normal(found.shape, np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return some(rows, 1.0, 0), {"text": some(queries, 1.3, 0.5), "image": some(queries, 1.0, 0)}


@dataclass(frozen=True)
class Built:
    """An index, and how to ask it."""

    name: str
    search: Search
    knobs: Iterable[int]
    build: float  # CPU seconds
    size: int  # bytes
    knob: str = "nprobe"


def ours(folder: Path, vectors: np.ndarray, factory: str, shards: int, rescore: int) -> Built:
    """Our lists: so many shards, so many rows rescored with float16 vectors."""
    folder.mkdir()

    def make() -> Lists:
        sample = np.random.default_rng(0).choice(len(vectors), min(len(vectors), 64 * 1024), replace=False)
        write_template(train(factory, vectors[sample], 0), folder / "template")
        keys = np.arange(len(vectors))
        files = [folder / f"{i}.lists" for i in range(shards)]
        for i, file in enumerate(files):
            write_shard(folder / "template", file, [(keys[i::shards], vectors[i::shards])])
        return Lists(folder / "template", files, vectors=RescoredRows(vectors.astype(np.float16)))

    spent, lists = cpu_of(make)
    size = sum(path.stat().st_size for path in folder.iterdir()) + bool(rescore) * vectors.size * 2
    name = f"ours, {factory}, {shards} shard{'s' * (shards > 1)}" + f", rescore {rescore}" * bool(rescore)
    return Built(name, lambda q, n: lists.search(q, AT, n, rescore=rescore)[1], KNOBS, spent, size)


def of_faiss(vectors: np.ndarray, factory: str) -> Built:
    """A plain faiss index of a factory string."""
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)

    def make() -> None:
        index.train(vectors[: 64 * 1024])
        index.add(vectors)

    spent, _ = cpu_of(make)
    size = len(faiss.serialize_index(index))
    if "HNSW" in factory:
        search = lambda q, n: index.search(q, AT, params=faiss.SearchParametersHNSW(efSearch=n))[1]  # noqa: E731
        return Built(f"faiss {factory}", search, [n for n in KNOBS if n >= AT], spent, size, "efSearch")
    if "IVF" in factory:
        search = lambda q, n: index.search(q, AT, params=faiss.SearchParametersIVF(nprobe=n))[1]  # noqa: E731
        return Built(f"faiss {factory}", search, KNOBS, spent, size)
    return Built(f"faiss {factory}, exact", lambda q, _: index.search(q, AT)[1], [0], spent, size, "")


def of_usearch(vectors: np.ndarray) -> Built:
    """usearch, float16, connectivity 32 (one thread)."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=32, expansion_add=128)
    spent, _ = cpu_of(lambda: index.add(np.arange(len(vectors)), vectors, threads=1))

    def search(queries: np.ndarray, knob: int) -> np.ndarray:
        index.expansion_search = knob
        return index.search(queries, AT, threads=1).keys.reshape(len(queries), -1).astype(np.int64)

    return Built("usearch f16 M32", search, [n for n in KNOBS if n >= AT], spent, len(index.save()), "expansion")


def of_hnswlib(vectors: np.ndarray) -> Built:
    """hnswlib, M 16, efConstruction 128 (one thread)."""
    import hnswlib

    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=128, M=16)
    spent, _ = cpu_of(lambda: index.add_items(vectors, num_threads=1))

    def search(queries: np.ndarray, knob: int) -> np.ndarray:
        index.set_ef(knob)
        return index.knn_query(queries, AT, num_threads=1)[0].astype(np.int64)

    return Built("hnswlib M16", search, [n for n in KNOBS if n >= AT], spent, index.index_file_size(), "ef")


def candidates(folder: Path, vectors: np.ndarray) -> Iterable[Built]:
    """One at a time: the memory of one goes before the next is built."""
    yield of_faiss(vectors, "Flat")
    yield of_faiss(vectors, "SQfp16")
    for number, (factory, shards, rescore) in enumerate(
        [
            ("IVF1024,SQ8", 1, 0),
            ("IVF1024,SQ8", 4, 0),
            ("IVF1024,RaBitQfs", 4, 100),
            ("IVF1024,PQ128x4fs", 1, 100),
            ("IVF1024,PQ128x4fs", 4, 100),
        ]
    ):
        yield ours(folder / f"{number}", vectors, factory, shards, rescore)
    yield of_faiss(vectors, "IVF1024,Flat")
    yield of_faiss(vectors, "HNSW32")
    if find_spec("usearch"):
        yield of_usearch(vectors)
    if find_spec("hnswlib"):
        yield of_hnswlib(vectors)


def index(folder: Path, rows: int = ROWS, dim: int = DIM) -> None:
    """The knob that gives 0.95 on one half of the text-like queries; everything else on the other half."""
    faiss.omp_set_num_threads(1)
    began = time.perf_counter()
    vectors, queries = draw(rows, dim, QUERIES)
    truth = {kind: faiss.knn(asked, vectors, AT, faiss.METRIC_INNER_PRODUCT)[1] for kind, asked in queries.items()}
    head = ("knob", "text-like", "image-like", "ms batch 1", "ms batch 64", "build CPU s", "MB")
    print(f"{rows:,} x {dim}, recall@{AT} of {TARGET} for text-like queries; ms of CPU a query")
    print(f"{'':<42}" + "".join(f"{name:>14}" for name in head))
    for built in candidates(folder, vectors):  # a line at a time: a run that is cut has shown something
        cells = [*_measured(built, queries, truth), f"{built.build:.1f}", f"{built.size / 1e6:.1f}"]
        print(f"{built.name:<42}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    missing = [name for name in ("usearch", "hnswlib", "autofaiss") if not find_spec(name)]
    print(f"{time.perf_counter() - began:.0f} s in all; not installed: {', '.join(missing) or 'none'}")


def _measured(built: Built, queries: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> list[str]:
    def recall(kind: str, half: int, knob: int) -> float:
        found, true = built.search(queries[kind][half::2], knob), truth[kind][half::2]
        return float(np.mean([len(set(a) & set(b)) / AT for a, b in zip(found.tolist(), true.tolist(), strict=True)]))

    for knob in built.knobs:
        if recall("text", 0, knob) >= TARGET:
            break
    asked = queries["text"]
    single = cpu(lambda: [built.search(asked[i : i + 1], knob) for i in range(64)]) / 64
    batch = cpu(lambda: [built.search(asked[i : i + 64], knob) for i in range(0, 256, 64)]) / 256
    told = f"{built.knob} {knob}" if built.knob else ""
    return [told, *(f"{recall(kind, 1, knob):.3f}" for kind in queries), f"{1e3 * single:.3f}", f"{1e3 * batch:.3f}"]
