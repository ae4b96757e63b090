"""Average precision of boxes, as COCO counts it at one overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image: boxes (n, 4) pixels x1 y1 x2 y2, labels (n,), and for detections scores (n,)."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None


def average_precision(targets: list[ImageBoxes], predictions: list[ImageBoxes], iou: float = 0.5) -> dict[int, float]:
    """AP of every label that occurs in `truth`, the images of both lists in one order.

    Precision is made non-increasing and read at 101 recalls, as in pycocotools (COCOeval, all areas); cap the
    detections of an image at 100 before, as COCO does, for equal numbers. The mean of the values is mAP.
    """
    labels = np.unique(np.concatenate([t.labels for t in targets]))
    return {int(label): _label_precision(targets, predictions, label, iou) for label in labels}


def _label_precision(truth: list[ImageBoxes], found: list[ImageBoxes], label: int, iou: float) -> float:
    scores, hits = [], []
    for t, f in zip(truth, found, strict=True):
        mine = f.labels == label
        order = np.argsort(-f.scores[mine], kind="stable")
        scores.append(f.scores[mine][order])
        hits.append(_match(t.boxes[t.labels == label], f.boxes[mine][order], iou))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = np.cumsum(np.concatenate(hits)[order])
    recall = right / sum(int((t.labels == label).sum()) for t in truth)
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[at].mean())


def _match(truth: np.ndarray, found: np.ndarray, iou: float) -> np.ndarray:
    """Whether each detection, best first, takes a box of `truth` that is still free; (n,) bool."""
    overlap = box_iou(found, truth)
    hits = np.zeros(len(found), dtype=bool)
    for i, row in enumerate(overlap):
        if row.size and row.max() >= iou:
            hits[i] = True
            overlap[:, row.argmax()] = -1.0
    return hits


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of every box of a (n, 4) with every box of b (m, 4): (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=-1)
    area = [np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (a, b)]
    return common / np.maximum(area[0][:, None] + area[1][None] - common, 1e-9)
