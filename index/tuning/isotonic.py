"""Isotonic regression: the function that never falls and is nearest to given values."""

import numpy as np

from index.versions.calibration import MonotoneMap

DIGITS = 7  # of stored inputs and values


def fit_isotonic(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> MonotoneMap:
    """Fit a monotone map with the smallest weighted squared error, by pooling adjacent violators.

    Between two blocks of equal values the map is linear, as in `sklearn.isotonic.IsotonicRegression`.

    Args:
        inputs: (n,) at least one; equal inputs count as one with their mean target.
        targets: (n,) values to fit.
        weights: (n,) above 0; None: all 1.

    Raises:
        ValueError: There are no inputs, or something is not finite.
    """
    weights = np.ones(len(inputs)) if weights is None else np.asarray(weights, np.float64)
    if not len(inputs) or not all(np.isfinite(array).all() for array in (inputs, targets, weights)):
        raise ValueError("A monotone map needs at least one input, and finite numbers. Pass other arrays.")
    unique_inputs, groups = np.unique(np.asarray(inputs, np.float64), return_inverse=True)
    sums = np.bincount(groups, weights)
    means = np.bincount(groups, weights * targets) / sums
    blocks: list[tuple[float, float, int]] = []  # mean, weight and first position of each block of equal values
    for position, (mean, weight) in enumerate(zip(means.tolist(), sums.tolist(), strict=True)):
        start = position
        while blocks and blocks[-1][0] >= mean:
            last_mean, last_weight, start = blocks.pop()
            mean = (last_mean * last_weight + mean * weight) / (last_weight + weight)
            weight += last_weight
        blocks.append((mean, weight, start))
    edges: list[int] = []
    values: list[float] = []
    ends = [start - 1 for _, _, start in blocks[1:]] + [len(means) - 1]
    for (mean, _, start), end in zip(blocks, ends, strict=True):
        ordered = (start,) if start == end else (start, end)
        edges += ordered
        values += [mean] * len(ordered)
    return MonotoneMap(inputs=np.round(unique_inputs[edges], DIGITS).tolist(), values=np.round(values, DIGITS).tolist())
