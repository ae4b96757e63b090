"""Index world of `tests`."""

import numpy as np

from index.collection import Collection

DIM = 24
IMAGES = 400


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def make(seed: int = 0, images: int = IMAGES) -> tuple[dict[str, Collection], dict[str, np.ndarray]]:
    """Clustered image vectors, two captions near each; the queries are further sentences and pictures."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((40, DIM))
    near = centers[rng.integers(0, 40, images + 60)] + 0.6 * rng.standard_normal((images + 60, DIM))
    spoken = np.repeat(near, 2, 0) + 0.4 * rng.standard_normal((2 * len(near), DIM))
    names = [f"{i:04d}.jpg" for i in range(images)]
    captions = [f"{name}#{k}" for name in names for k in range(2)]
    rows = [{"id": n, "image_id": n, "path": f"images/{n}", "split": "test", "width": 9, "height": 7} for n in names]
    said = [{"id": c, "image_id": c[:-2], "text": f"text of {c}", "content_hash": f"{seed}"} for c in captions]
    collections = {
        "image": Collection(names, unit(near[:images]), rows),
        "caption": Collection(captions, unit(spoken[: 2 * images]), said),
    }
    return collections, {"image": unit(spoken[2 * images :]), "caption": unit(near[images:])}
