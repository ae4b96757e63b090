"""Cost of a query against unit vectors of an index: alone and in a batch, beside numpy and plain FAISS."""

import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from data.alignment import RowVectors, encode_vectors
from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata.lookup import MetadataLookup
from index.metadata.schema import Row
from index.metadata.tables import build_table, write_lookup
from index.search.index import Index
from tests.bench.common import cpu, cpu_of, show

K, BATCH, TARGET, DIM = 10, 64, 0.99, 512
ROUNDS = 7  # of all searches in turn; the minimum of each counts
SETS = ((10_000, "clusters"), (30_000, "clusters"), (30_000, "noise"), (155_000, "clusters"))
Search = Callable[[np.ndarray], np.ndarray]
"""Function from (q, d) queries to (q, 10) positions."""


def make_unit_vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    """Return unit vectors of intrinsic dimension 64 around 3,000 overlapping centers; neighbors are in many lists."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    centers, projection = fixed.normal(size=(3000, 64)), fixed.normal(size=(64, dim))
    vectors = (centers[rng.integers(0, 3000, rows)] + 1.2 * rng.normal(size=(rows, 64))) @ projection
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def make_noise(rows: int, dim: int, seed: int) -> np.ndarray:
    """Return unit vectors in random directions: no code and no list knows anything about them."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def look_up(folder: Path) -> None:
    """Measure reading ten metadata rows by key from four shards with 300,000 rows in total."""
    metadata = (Row("image", f"{i:06d}.jpg", path=f"images/{i:06d}.jpg", split="train") for i in range(300_000))
    table = build_table("image", metadata)
    paths = [folder / f"{i}.sqlite" for i in range(4)]
    for i, path in enumerate(paths):
        write_lookup(path, table.filter(table["key"].to_numpy() % 4 == i))
    keys = np.random.default_rng(0).choice(table["key"].to_numpy(), (100, 10), replace=False).tolist()
    rows = MetadataLookup(paths, np.empty(0, np.int64), 4)
    seconds = cpu(lambda: [rows.by_key(batch) for batch in keys]) / len(keys)
    show("10 rows of 300,000 by key", [("SQLite, 4 shards", seconds, "to stay under 1 ms")])


def search(folder: Path) -> None:
    """Measure queries against vectors of several sizes: numpy, plain FAISS, and a published index with its rows."""
    faiss.omp_set_num_threads(1)
    for rows, name in SETS:
        make = make_noise if name == "noise" else make_unit_vectors
        _measure_set(f"{rows:,} x {DIM}, {name}", make(rows, DIM, 1), make(1256, DIM, 2), folder / f"{rows}-{name}")
    look_up(folder)
    rerank(folder / "rerank")


def rerank(folder: Path) -> None:
    """Measure single text queries on 5,000 images with 17 to 36 row vectors of 64 numbers: global, and 100 reranked."""
    num_rows, num_queries = 5_000, 64
    vectors, queries = make_unit_vectors(num_rows, DIM, 1), make_unit_vectors(2 * num_queries, DIM, 2)
    rng = np.random.default_rng(0)
    rows = make_row_vectors(rng.integers(17, 37, num_rows), rng)
    query_rows = make_row_vectors(np.full(num_queries, 14), rng)
    ids = [str(i) for i in range(num_rows)]
    metadata = [Row("image", name, path=f"images/{name}.jpg") for name in ids]
    collection = Collection(ids, vectors, metadata, lambda names: rows.select([int(name) for name in names]))
    inputs = IndexInputs({"image": collection}, {"image": queries[num_queries:]}, alignment_weight=0.5)
    build_index(IndexConfig(), inputs, folder)
    with Index.open(folder) as index:
        singles = [(queries[i : i + 1], query_rows.select([i])) for i in range(num_queries)]
        plain = cpu(lambda: [index.search(query, K) for query, _ in singles]) / num_queries
        reranked = cpu(lambda: [index.search(query, K, query_rows=one) for query, one in singles]) / num_queries
    limit = "at most 5 ms more than without"
    lines = [("the global search", plain, ""), ("100 hits reranked", reranked, limit)]
    show("a text query on 5,000 images, one at a time", lines)


def make_row_vectors(lengths: np.ndarray, rng: np.random.Generator) -> RowVectors:
    """Return random row vectors of 64 numbers of items with these numbers of rows."""
    vectors = rng.standard_normal((int(lengths.sum()), 64), np.float32)
    codes = encode_vectors(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return RowVectors(codes, np.repeat(1 / lengths, lengths).astype(np.float16), lengths.astype(np.int64))


def _measure_set(title: str, vectors: np.ndarray, queries: np.ndarray, folder: Path) -> None:
    tuning_queries, queries = queries[256:], queries[:256]
    ids = [str(i) for i in range(len(vectors))]
    collection = Collection(ids, vectors, [Row("image", name, path=f"images/{name}.jpg") for name in ids])
    inputs = IndexInputs({"image": collection}, {"image": tuning_queries})
    seconds, _ = cpu_of(lambda: build_index(IndexConfig(), inputs, folder))
    with Index.open(folder) as index:
        part = index.collection("image")
        position_by_key = {row.key: int(row.id) for row in index.get_metadata(ids).values()}
        parameters = part.manifest.search

        def search_lists(batch: np.ndarray) -> np.ndarray:
            return part.lists.search(batch, K, parameters.nprobe, rescore=parameters.rescore)[1]

        searches: dict[str, tuple[Search, Callable[[np.ndarray], np.ndarray]]] = {
            "numpy, exact": (lambda batch: np.argpartition(-(batch @ vectors.T), K, axis=1)[:, :K], np.asarray),
            **_build_plain(vectors, tuning_queries),
            f"this index without rows: {part.manifest.factory}, {parameters.nprobe} lists, {parameters.rescore} "
            "rescored": (search_lists, lambda keys: np.vectorize(position_by_key.get)(keys)),
            f"this index, hits with rows (built in {seconds:.1f} CPU s)": (
                lambda batch: index.search(batch, K),
                lambda hits: np.array([[int(hit.id) for hit in line] for line in hits]),
            ),
        }
        _print_table(title, searches, vectors, queries)


def _build_plain(
    vectors: np.ndarray, tuning_queries: np.ndarray
) -> dict[str, tuple[Search, Callable[[np.ndarray], np.ndarray]]]:
    """Build plain FAISS indexes: exact, and inverted lists with the smallest power of two of lists for the target."""
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    nlist = 1 << (min(int(4 * len(vectors) ** 0.5), len(vectors) // 39).bit_length() - 1)
    lists = faiss.index_factory(vectors.shape[1], f"IVF{nlist},Flat", faiss.METRIC_INNER_PRODUCT)
    lists.train(vectors)
    lists.add(vectors)
    expected = flat.search(tuning_queries, K)[1]
    while lists.nprobe < nlist and _measure_recall(lists.search(tuning_queries, K)[1], expected) < TARGET:
        lists.nprobe *= 2
    return {
        "faiss IndexFlatIP": (lambda batch: flat.search(batch, K)[1], np.asarray),
        f"faiss IVF{nlist},Flat, {lists.nprobe} lists": (lambda batch: lists.search(batch, K)[1], np.asarray),
    }


def _measure_recall(positions: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean([len({*a} & {*b}) / K for a, b in zip(positions.tolist(), expected.tolist(), strict=True)]))


def _print_table(
    title: str,
    searches: dict[str, tuple[Search, Callable[[np.ndarray], np.ndarray]]],
    vectors: np.ndarray,
    queries: np.ndarray,
) -> None:
    """Time all searches in turn, so that the load of the machine is the same for each."""
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :K]
    times = np.full((ROUNDS, len(searches), 2), np.inf)
    for turn in times:
        for i, (function, _) in enumerate(searches.values()):
            for j, size in enumerate((1, BATCH)):
                start = time.process_time()
                for begin in range(0, BATCH if size == 1 else len(queries), size):
                    function(queries[begin : begin + size])
                turn[i, j] = (time.process_time() - start) / (BATCH if size == 1 else len(queries))
    best = 1e3 * times.min(0)
    table = Table(title, "recall@10", "CPU ms alone", "of numpy", f"CPU ms, {BATCH} at a time", "of numpy")
    for (name, (function, convert)), (alone, batch) in zip(searches.items(), best, strict=True):
        recall = _measure_recall(convert(function(queries)), expected)
        table.add_row(
            name,
            f"{recall:.3f}",
            f"{alone:.3f}",
            f"{alone / best[0, 0]:.2f}",
            f"{batch:.3f}",
            f"{batch / best[0, 1]:.2f}",
        )
    Console(width=160).print(table)
