"""A plain search service of FAISS and FastAPI, which the table `service` is compared with.

    python -m tests.bench.pipeline.plain_service PLAN --workspace FOLDER --port 8001 [--ivf]

It does what a short script for the same task does: one `faiss.IndexFlatIP` (or, with `--ivf`, an `IVF,Flat` index) over
the image vectors in memory, a list of dicts with the metadata, and one endpoint `GET /search?q=TEXT&k=10` that embeds a
text, searches and returns JSON. The texts are embedded by the encoder of the plan, so only the rest differs.

It has none of the rest: no regions, filters, updates, versions, limits, tokens, checks of uploads or metrics. Latencies
are therefore those of less work.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import uvicorn
from fastapi import FastAPI, Query

from index.ivf.distance import float16_to_float32
from index.search import Index
from pipeline.plans import load_plan
from pipeline.search.searcher import Searcher

TARGET_RECALL = 0.99  # of --ivf; nprobe is doubled until 256 of the vectors find their neighbors


@dataclass(frozen=True)
class Items:
    """Everything that the service returns, and the vectors that it searches."""

    vectors: np.ndarray
    """(n, d) float32"""
    metadata: list[dict[str, Any]]
    """n dicts; row i belongs to vector i"""


def read_items(index: Index) -> Items:
    """Read the vectors and the metadata of all images of an index into memory."""
    collection = index.collection("image")
    captions: dict[str, list[str]] = {}
    if "caption" in index.kinds:
        for lookup in index.collection("caption").rows.lookups:
            for image_id, text in lookup.query("SELECT image_id, text FROM items", ()):
                captions.setdefault(image_id, []).append(text)
    vectors, metadata = [], []
    for shard in collection.vectors.shards:
        for keys, block in shard.blocks(collection.deleted_keys):
            rows = collection.rows.by_key(keys.tolist())
            vectors.append(float16_to_float32(block))
            metadata += [
                {"id": row.id, "path": row.path, "captions": captions.get(row.id, [])}
                for row in (rows[key] for key in keys.tolist())
            ]
    return Items(np.concatenate(vectors), metadata)


def build_index(vectors: np.ndarray, use_ivf: bool) -> faiss.Index:
    """Build the index of the service: exact, or inverted lists with the number of probes that its author would set."""
    dim = vectors.shape[1]
    exact = faiss.IndexFlatIP(dim)
    exact.add(vectors)
    if not use_ivf:
        return exact
    nlist = max(1, min(int(4 * len(vectors) ** 0.5), len(vectors) // 39))  # FAISS's guideline
    index = faiss.index_factory(dim, f"IVF{nlist},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    queries = vectors[:: max(1, len(vectors) // 256)][:256]
    expected = exact.search(queries, 10)[1]
    while index.nprobe < nlist:
        keys = index.search(queries, 10)[1]
        if np.mean([len({*a} & {*b}) / 10 for a, b in zip(keys, expected, strict=True)]) >= TARGET_RECALL:
            break
        index.nprobe = min(2 * index.nprobe, nlist)
    return index


def create_app(embed: Callable[[str], np.ndarray], items: Items, index: faiss.Index) -> FastAPI:
    """Create the application. `embed` returns the (1, d) vector of a text."""
    app = FastAPI()

    @app.get("/search")
    def search(q: str, k: int = Query(10, ge=1, le=100)) -> dict[str, Any]:
        scores, positions = index.search(np.ascontiguousarray(embed(q), np.float32), k)
        return {
            "hits": [
                {**items.metadata[position], "score": float(score)}
                for score, position in zip(scores[0], positions[0], strict=True)
                if position >= 0
            ]
        }

    return app


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", help="plan whose published index is copied into memory")
    parser.add_argument("--workspace", type=Path, help="workspace of the plan")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--ivf", action="store_true", help="inverted lists instead of exact search")
    arguments = parser.parse_args()
    settings = (f"workspace={arguments.workspace}",) if arguments.workspace else ()
    searcher = Searcher(load_plan(arguments.plan, settings))
    items = read_items(searcher.index)
    searcher.load_models()
    app = create_app(searcher.embed_text, items, build_index(items.vectors, arguments.ivf))
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
