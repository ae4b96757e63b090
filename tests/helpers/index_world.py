"""Small random collections of images and captions with their queries, for the tests of the index."""

import zlib

import numpy as np

from data.alignment import RowVectors, encode_rows
from index.collection import Collection
from index.metadata.schema import Row

DIM = 24
IMAGES = 400
ROW_DIM = 8
ALIGNMENT_WEIGHT = 0.4


def unit(x: np.ndarray) -> np.ndarray:
    """Normalize (n, d) vectors and round them to float16."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def make_rows(vectors: np.ndarray) -> RowVectors:
    """Make 1 to 5 random row vectors for each of (n, d) vectors, which determine them."""
    padded, mask = np.zeros((len(vectors), 5, ROW_DIM), np.float32), np.zeros((len(vectors), 5), bool)
    weights = np.zeros((len(vectors), 5), np.float32)
    for i, vector in enumerate(np.asarray(vectors, np.float16)):
        rng = np.random.default_rng(zlib.crc32(vector.tobytes()))
        count = int(rng.integers(1, 6))
        rows = rng.standard_normal((count, ROW_DIM))
        padded[i, :count] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        mask[i, :count], weights[i, :count] = True, rng.dirichlet(np.ones(count))
    return encode_rows(padded, weights, mask)


def make(seed: int = 0, images: int = IMAGES) -> tuple[dict[str, Collection], dict[str, np.ndarray]]:
    """Make clustered image vectors with two captions near each; the queries are further captions and images."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((40, DIM))
    near = centers[rng.integers(0, 40, images + 60)] + 0.6 * rng.standard_normal((images + 60, DIM))
    texts = np.repeat(near, 2, 0) + 0.4 * rng.standard_normal((2 * len(near), DIM))
    names = [f"{i:04d}.jpg" for i in range(images)]
    captions = [f"{name}#{k}" for name in names for k in range(2)]
    image_rows = [Row("image", n, n, path=f"images/{n}", split="test", width=9, height=7) for n in names]
    caption_rows = [Row("caption", c, c[:-2], text=f"text of {c}", content_hash=f"{seed}") for c in captions]
    collections = {
        "image": Collection(names, unit(near[:images]), image_rows),
        "caption": Collection(captions, unit(texts[: 2 * images]), caption_rows),
    }
    return collections, {"image": unit(texts[2 * images :]), "caption": unit(near[images:])}
