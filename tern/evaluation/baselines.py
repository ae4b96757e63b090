"""Baselines that a model must exceed on the same features and split: chance, and ridge regression of pooled
features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def chance_recall(num_images: int, captions_per_image: int) -> dict[str, float]:
    """Compute the expected recall of a random ranking without ties.

    A caption finds its one image among the first k with probability k / images. An image finds one of its c captions
    among n = c * images captions with probability 1 - C(n - c, k) / C(n, k).

    Args:
        num_images: Number of images.
        captions_per_image: Number of captions of each image.

    Returns:
        Recall@1, 5 and 10 in percent as `t2i_r1`, `i2t_r1` ..., and their sum as `rsum`.
    """
    return chance_recalls([captions_per_image] * num_images)


def chance_recalls(captions_by_image: Sequence[int]) -> dict[str, float]:
    """Compute what `chance_recall` computes for images with different numbers of captions.

    Args:
        captions_by_image: Number of captions of each image; an image without captions is not a query.

    Returns:
        As `chance_recall`.
    """
    num_images, total = len(captions_by_image), sum(captions_by_image)
    num_queries = sum(count > 0 for count in captions_by_image)
    recalls: dict[str, float] = {}
    for k in (1, 5, 10):
        recalls[f"t2i_r{k}"] = 100 * min(1.0, k / num_images)
        missed = 0.0
        for count, num_equal in Counter(captions_by_image).items():
            if count:
                factors = [max(0, total - count - i) / (total - i) for i in range(min(k, total))]
                missed += num_equal * float(np.prod(factors))
        recalls[f"i2t_r{k}"] = 100 * (1 - missed / num_queries)
    return {**recalls, "rsum": sum(recalls.values())}


def is_near_chance(recall: float, chance: float, num_queries: int) -> bool:
    """Return whether the 95 % interval of a recall contains chance: Wilson's score interval of a share of queries.

    Args:
        recall: Recall in percent.
        chance: Recall of a random ranking, in percent.
        num_queries: Number of independent queries.
    """
    low, high = wilson_interval(recall / 100, num_queries)
    return low - 1e-12 <= chance / 100 <= high + 1e-12


def wilson_interval(share: float, num_queries: int) -> tuple[float, float]:
    """Compute Wilson's 95 % score interval of a share of independent queries; all values are 0 to 1."""
    z = 1.96
    center = share + z**2 / (2 * num_queries)
    half_width = z * (share * (1 - share) / num_queries + z**2 / (4 * num_queries**2)) ** 0.5
    scale = 1 + z**2 / num_queries
    return max(0.0, (center - half_width) / scale), min(1.0, (center + half_width) / scale)


def fit_ridge(images: np.ndarray, captions: np.ndarray, image_index: np.ndarray, penalty: float) -> np.ndarray:
    """Fit the linear map from the pooled regions of an image to the mean of its pooled captions.

    Minimizes |X W - Y|^2 + penalty * mean(x^2) * n * |W|^2. The intercept is not penalized, as in scikit-learn's Ridge.

    Args:
        images: (n, d) pooled regions.
        captions: (m, t) pooled captions.
        image_index: (m,) row in `images` of the image of each caption; each row occurs at least once.
        penalty: Penalty as a fraction of the energy of the features, so that it does not depend on their scale; above
            0.

    Returns:
        Weights (d + 1, t); the last row is the intercept.

    Raises:
        ValueError: The penalty is not positive, or an image has no caption.
    """
    if penalty <= 0:
        raise ValueError(f"A penalty of {penalty} leaves more features than images undetermined. Pass one above 0.")
    counts = np.bincount(image_index, minlength=len(images))
    if len(counts) != len(images) or not counts.all():
        raise ValueError("Ridge regression needs a caption of every image. Leave out the images without captions.")
    target = np.zeros((len(images), captions.shape[1]))
    np.add.at(target, image_index, captions)
    target /= counts[:, None]
    image_mean, target_mean = images.mean(axis=0, dtype=np.float64), target.mean(axis=0)
    x = images - image_mean
    gram = x.T @ x + penalty * max((x**2).mean(), 1e-12) * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (target - target_mean))
    return np.vstack([weights, target_mean - image_mean @ weights])
