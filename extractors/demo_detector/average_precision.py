"""Average precision of boxes as COCO computes it at one overlap; used to measure the demo detector.

Shapes: n boxes of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image, either targets or predictions."""

    boxes: np.ndarray
    """(n, 4) float, x1 y1 x2 y2 in pixels"""
    labels: np.ndarray
    """(n,) int"""
    scores: np.ndarray | None = None
    """(n,) float, of predictions; None for targets"""


def average_precision(targets: list[ImageBoxes], predictions: list[ImageBoxes], iou: float = 0.5) -> dict[int, float]:
    """Compute the average precision of every label that occurs in the targets.

    The mean of the values is mAP.

    Precision is made non-increasing and read at 101 recalls, as in pycocotools (COCOeval, all areas). For numbers equal
    to COCO's, limit the predictions to 100 per image.

    Args:
        targets: True boxes of each image.
        predictions: Predicted boxes of each image, in the order of `targets`.
        iou: Minimum intersection over union of a match, 0 to 1.

    Returns:
        Average precision by label, 0 to 1.
    """
    labels = np.unique(np.concatenate([image.labels for image in targets]))
    return {int(label): _compute_label_precision(targets, predictions, label, iou) for label in labels}


def _compute_label_precision(targets: list[ImageBoxes], predictions: list[ImageBoxes], label: int, iou: float) -> float:
    scores, hits = [], []
    for target, prediction in zip(targets, predictions, strict=True):
        assert prediction.scores is not None
        members = prediction.labels == label
        order = np.argsort(-prediction.scores[members], kind="stable")
        scores.append(prediction.scores[members][order])
        hits.append(_match_boxes(target.boxes[target.labels == label], prediction.boxes[members][order], iou))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    num_hits = np.cumsum(np.concatenate(hits)[order])
    recall = num_hits / sum(int((target.labels == label).sum()) for target in targets)
    precision = np.maximum.accumulate((num_hits / np.arange(1, len(num_hits) + 1))[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[at].mean())


def _match_boxes(targets: np.ndarray, predictions: np.ndarray, iou: float) -> np.ndarray:
    """Return (n,) bool: whether each prediction, best first, matches a target box.

    A target box matches one prediction, the best.
    """
    overlap = box_iou(predictions, targets)
    hits = np.zeros(len(predictions), dtype=bool)
    for i, row in enumerate(overlap):
        if row.size and row.max() >= iou:
            hits[i] = True
            overlap[:, row.argmax()] = -1.0
    return hits


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of all pairs of boxes: (n, 4), (m, 4) -> (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (a, b)]
    return intersection / np.maximum(areas[0][:, None] + areas[1][None] - intersection, 1e-9)
