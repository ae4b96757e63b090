"""Small random collections of images and captions with their queries, for the tests of the index."""

import numpy as np

from index.collection import Collection
from index.metadata.schema import Row

DIM = 24
IMAGES = 400


def unit(x: np.ndarray) -> np.ndarray:
    """Normalize (n, d) vectors and round them to float16."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


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
