"""Cost of the metrics of a test split: recalls and ranks, ROUGE-L relevances, NDCG."""

import numpy as np

from tern.evaluation.metrics import encode_image_ids, rank_queries, retrieval_metrics
from tern.evaluation.ndcg import ndcg
from tern.evaluation.rouge import rouge_l
from tests.bench.common import cpu, cpu_of, show
from tests.bench.index.search import make_unit_vectors


def split(images: int) -> tuple[np.ndarray, list[str], np.ndarray, list[str]]:
    """Make image vectors and ids, five caption vectors close to each image, and the image ids of the captions."""
    image_vectors = make_unit_vectors(images, 1024, 3)
    caption_vectors = np.repeat(image_vectors, 5, axis=0) + 0.05 * np.random.default_rng(4).normal(
        size=(5 * images, 1024)
    )
    caption_vectors = (caption_vectors / np.linalg.norm(caption_vectors, axis=1, keepdims=True)).astype("float32")
    return (
        image_vectors,
        [f"{k:05}" for k in range(images)],
        caption_vectors,
        [f"{k // 5:05}" for k in range(5 * images)],
    )


def rank_by_two_products(
    image_vectors: np.ndarray, ids: list[str], caption_vectors: np.ndarray, owners: list[str]
) -> None:
    """Rank each direction with its own matrix product."""
    y, z = encode_image_ids(image_vectors, ids, caption_vectors, owners)
    rank_queries(image_vectors, y, caption_vectors, z), rank_queries(caption_vectors, z, image_vectors, y)


def rank_by_sorting(image_vectors: np.ndarray, caption_vectors: np.ndarray) -> None:
    """Rank both directions as the authors of TERN and TERAN do: sort all candidates of each query."""
    scores = image_vectors @ caption_vectors.T
    np.argsort(scores, axis=1), np.argsort(scores.T, axis=1)


def metrics() -> None:
    """Measure the metrics at the sizes of Flickr30k's and COCO's test splits."""
    for images in (1000, 5000):
        data = split(images)
        measure = cpu_of if images > 1000 else lambda f: (cpu(f, 3), None)
        product = measure(lambda d=data: d[0] @ d[2].T)[0]
        rows = [("ours", measure(lambda d=data: retrieval_metrics(*d))[0], "both directions, ranks, no sort")]
        rows += [("two products", measure(lambda d=data: rank_by_two_products(*d))[0], "one product per direction")]
        if images == 1000:  # 1 GB and half a minute at COCO's size
            rows += [
                ("one sort per query", measure(lambda d=data: rank_by_sorting(d[0], d[2]))[0], "ranks not yet read off")
            ]
        show(f"recall and ranks, {images:,} x {5 * images:,}", [*rows, ("the product alone", product, "")])
    relevances()


def relevances() -> None:
    """Measure ROUGE-L of 1,000 images and 5,000 captions of 8 to 17 words, and NDCG with it."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 2001)
    texts = [
        " ".join(rng.choice(2000, rng.integers(8, 18), p=weights / weights.sum()).astype(str)) for _ in range(5000)
    ]
    owners = [k // 5 for k in range(5000)]
    seconds, matrix = cpu_of(lambda: np.concatenate(list(rouge_l(texts, texts, owners, 1000))))
    data = split(1000)
    rows = [("ROUGE-L, 25 M pairs", seconds, f"{1e9 * seconds / 25e6:.0f} ns per pair")]
    show("NDCG, 1,000 x 5,000", [*rows, ("NDCG@25, both directions", cpu(lambda: ndcg(*data, matrix), 3), "")])
