"""What a model must beat on the same features and split: chance, and ridge regression between pooled features."""

from __future__ import annotations

import numpy as np


def chance_recall(images: int, captions_per_image: int) -> dict[str, float]:
    """Expected recall in percent of a ranking drawn at random, no ties.

    A caption finds its one image among the first k with probability k / images; an image finds one of its c
    captions among n = c * images unless the first k are all others: 1 - C(n - c, k) / C(n, k).
    """
    total = images * captions_per_image
    found: dict[str, float] = {}
    for k in (1, 5, 10):
        found[f"t2i_r{k}"] = 100 * min(1.0, k / images)
        missed = np.prod([max(0, total - captions_per_image - i) / (total - i) for i in range(min(k, total))])
        found[f"i2t_r{k}"] = 100 * (1 - float(missed))
    return {**found, "rsum": sum(found.values())}


def fit_ridge(images: np.ndarray, captions: np.ndarray, image_index: np.ndarray, penalty: float) -> np.ndarray:
    """Weights W (d + 1, t) that take pooled regions to the mean caption of each image; the last row is the offset.

    Least |X W - Y|^2 + penalty * mean(x^2) * n * |W|^2, the offset not penalized (as scikit-learn's Ridge).

    Args:
        images: (n, d); captions: (m, t); owners: (m,) row in `images` of each caption's image, every row at least once
        penalty: as a fraction of the features' energy, so that it does not hang on their scale; positive
    """
    if penalty <= 0:
        raise ValueError(f"a penalty of {penalty} leaves more features than images undetermined; give one above 0")
    counts = np.bincount(image_index, minlength=len(images))
    if len(counts) != len(images) or not counts.all():
        raise ValueError("ridge needs a caption of every image; leave out the images that have none")
    target = np.zeros((len(images), captions.shape[1]))
    np.add.at(target, image_index, captions)
    target /= counts[:, None]
    middle, goal = images.mean(axis=0, dtype=np.float64), target.mean(axis=0)
    x = images - middle
    gram = x.T @ x + penalty * max((x**2).mean(), 1e-12) * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (target - goal))
    return np.vstack([weights, goal - middle @ weights])
