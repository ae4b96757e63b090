"""Which proposals are stored: Caffe's rule, computed from the few scores that can matter.

Matched to tools/generate_tsv.py of Anderson et al.; n proposals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from extractors.bottom_up.proposals import inclusive_nms

NMS_IOU = 0.3  # of two proposals of one class


def select_regions(
    boxes: Tensor, scores: Tensor, at_least: int, at_most: int, threshold: float, margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Which proposals to keep, and which of all are kept, or not, by less than `margin`: two tensors of indices.

    A proposal's confidence is its best score among the classes in whose NMS it survives. Those that reach the threshold
    are kept, in the order of the proposals; if they are fewer than `at_least` or more than `at_most`, the best
    so many, best first (equal ones in the order of the proposals; Caffe leaves that open).
    boxes (n, 4) in pixels, scores (n, classes) without the background; `margin` in the logit of a confidence.
    """
    confidence = class_nms_confidences(boxes, scores, _lowered(threshold, margin))
    kept = (confidence >= threshold).nonzero().flatten()
    if at_least <= len(kept) <= at_most:
        return kept, _within(confidence, threshold, threshold, margin)
    wanted = min(at_least, len(boxes)) if len(kept) < at_least else at_most
    floor = threshold
    while int((confidence >= floor).sum()) < wanted:  # below the floor a confidence is not known
        floor = floor / 4 if floor > 1e-6 else 0.0
        confidence = class_nms_confidences(boxes, scores, floor)
    best = confidence.sort(descending=True).values
    if margin and 0 < wanted < len(boxes):  # the best of those that are left out must be known too
        confidence = class_nms_confidences(boxes, scores, _lowered(float(best[wanted - 1]), margin))
        best = confidence.sort(descending=True).values
        unsure = _within(confidence, float(best[wanted]), float(best[wanted - 1]), margin)
    else:
        unsure = kept[:0]
    return confidence.argsort(descending=True, stable=True)[:wanted], unsure


def _lowered(confidence: float, margin: float) -> float:
    """The confidence whose logit is lower by `margin`."""
    odds = confidence / max(1 - confidence, 1e-6) * math.exp(-margin)
    return odds / (1 + odds) if margin else confidence


def _within(confidence: Tensor, below: float, above: float, margin: float) -> Tensor:
    """Indices of those within `margin` of an edge's other side: `below` is the best left out, `above` the last kept."""
    if not margin:
        return confidence.new_zeros(0, dtype=torch.int64)
    logits = confidence.logit(1e-6)  # float32 has nothing nearer to 1
    low, high = confidence.new_tensor([below, above]).logit(1e-6)
    distance = torch.where(confidence >= above, logits - low, high - logits)
    near = (distance < margin).nonzero().flatten()
    return near[distance[near].argsort(stable=True)]


def class_nms_confidences(boxes: Tensor, scores: Tensor, floor: float) -> Tensor:
    """(n,) each proposal's best score among the classes in which it survives, where that is at least `floor`; else 0.

    Only scores from the floor on are looked at: what suppresses such a score is higher still. With the 0.2 of the
    field that is at most five classes a proposal, where Caffe runs an NMS of all proposals for each of 1,600.
    """
    who, what = (scores >= floor).nonzero(as_tuple=True)
    value = scores[who, what]
    order = what.argsort(stable=True)
    who, what, value = who[order], what[order], value[order]
    found = scores.new_zeros(len(boxes))
    for mine, own in zip(
        *(x.split(what.unique_consecutive(return_counts=True)[1].tolist()) for x in (who, value)), strict=True
    ):
        if len(mine) > 1:
            left = inclusive_nms(boxes[mine], own, NMS_IOU)
            mine, own = mine[left], own[left]
        found[mine] = torch.maximum(found[mine], own)
    return found
