"""Which proposals are stored: Caffe's rule, computed from the few scores that can matter.

Matched to tools/generate_tsv.py of Anderson et al.; n proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from extractors.bottom_up.proposals import inclusive_nms

OVERLAP = 0.3  # of two proposals of one class


def select(boxes: Tensor, scores: Tensor, at_least: int, at_most: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Which proposals to keep, (r,) indices, and the confidence of every one, (n,).

    A proposal's confidence is its best score among the classes in whose NMS it survives. Those that reach the threshold
    are kept, in the order of the proposals; if they are fewer than `at_least` or more than `at_most`, the best
    so many, best first (equal ones in the order of the proposals; Caffe leaves that open).
    boxes (n, 4) in pixels, scores (n, classes) without the background. Low confidences that decide nothing are 0.
    """
    confidence = confidences(boxes, scores, threshold)
    kept = (confidence >= threshold).nonzero().flatten()
    if at_least <= len(kept) <= at_most:
        return kept, confidence
    wanted, floor = min(at_least, len(boxes)), threshold
    while int((confidence >= floor).sum()) < wanted:  # below the floor a confidence is not known
        floor = floor / 4 if floor > 1e-6 else 0.0
        confidence = confidences(boxes, scores, floor)
    order = confidence.argsort(descending=True, stable=True)
    return order[: wanted if len(kept) < at_least else at_most], confidence


def near_the_edge(kept: Tensor, confidence: Tensor, margin: float, limit: int) -> Tensor:
    """At most `limit` proposals that are kept, or not, by less than `margin` in the logit of their confidence."""
    inside = torch.zeros_like(confidence, dtype=torch.bool)
    inside[kept] = True
    if not len(kept) or inside.all():
        return kept[:0]
    logits = confidence.logit(1e-6)  # float32 has nothing nearer to 1
    lowest, highest = logits[inside].min(), logits[~inside].max()
    distance = torch.where(inside, logits - highest, lowest - logits)  # to the nearest on the other side
    near = (distance < margin).nonzero().flatten()
    return near[distance[near].argsort()[:limit]]


def confidences(boxes: Tensor, scores: Tensor, floor: float) -> Tensor:
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
            left = inclusive_nms(boxes[mine], own, OVERLAP)
            mine, own = mine[left], own[left]
        found[mine] = torch.maximum(found[mine], own)
    return found
