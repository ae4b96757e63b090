"""Probabilities of hits: the fitted map of a collection, applied to the scores of queries.

Shapes: q queries, k hits.
"""

import numpy as np

from index.versions.calibration import MonotoneMap, ScoreCalibration


def compute_probabilities(calibration: ScoreCalibration, scores: np.ndarray) -> np.ndarray:
    """Compute the chance that each hit is right.

    Args:
        calibration: Map of the collection.
        scores: (q, k) scores of the first hits, highest first; fewer than `calibration.depth` only if there are no
            more.

    Returns:
        (q, k) float64, 0 to 1; never higher than the probability of the hit before.
    """
    return map_scores(scores, calibration.answered, calibration.chance, calibration.sharpness, calibration.depth)


def map_scores(
    scores: np.ndarray, answered: MonotoneMap, chance: MonotoneMap, sharpness: float, depth: int
) -> np.ndarray:
    """Compute probabilities (q, k) from scores (q, k) and the parts of a calibration."""
    return apply_map(chance, apply_map(answered, scores[:, :1]) * share_chance(scores, sharpness, depth))


def share_chance(scores: np.ndarray, sharpness: float, depth: int) -> np.ndarray:
    """Divide the chance that a query is answered among its hits, (q, k): a softmax over the first `depth` scores."""
    powers = np.exp(sharpness * (np.asarray(scores, np.float64) - scores[:, :1]))
    return np.asarray(powers / powers[:, :depth].sum(axis=1, keepdims=True))


def apply_map(line: MonotoneMap, inputs: np.ndarray) -> np.ndarray:
    """Apply a map to an array of any shape."""
    return np.asarray(np.interp(inputs, line.inputs, line.values))
