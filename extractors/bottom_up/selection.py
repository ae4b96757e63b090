"""Choose the proposals that are stored, by Caffe's rule; used by `BottomUpExtractor`.

Matches tools/generate_tsv.py of Anderson et al. Shapes: n proposals of an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from extractors.bottom_up.proposals import inclusive_nms

NMS_IOU = 0.3  # of two proposals of one class


def select_regions(
    boxes: Tensor, scores: Tensor, min_regions: int, max_regions: int, threshold: float, margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Select the proposals to keep, and find those whose choice depends on rounding.

    The confidence of a proposal is its best score among the classes in whose NMS it survives. Proposals whose
    confidence reaches the threshold are kept, in the order of the proposals. If these are fewer than `min_regions` or
    more than `max_regions`, that number of the most confident proposals is kept instead, best first. Equal
    confidences come in the order of the proposals; Caffe leaves their order undefined.

    Args:
        boxes: (n, 4) float, in pixels.
        scores: (n, classes) float, probabilities without the background.
        min_regions: Minimum number of proposals to keep.
        max_regions: Maximum number of proposals to keep.
        threshold: Minimum confidence.
        margin: Possible error of a confidence, in its logit; 0 finds no uncertain proposals.

    Returns:
        Indices of the kept proposals, and indices of proposals that are kept or dropped by less than `margin`, int64.
    """
    confidence = class_nms_confidences(boxes, scores, _lower_by_margin(threshold, margin))
    kept = (confidence >= threshold).nonzero().flatten()
    if min_regions <= len(kept) <= max_regions:
        return kept, _find_uncertain(confidence, threshold, threshold, margin)
    target = min(min_regions, len(boxes)) if len(kept) < min_regions else max_regions
    floor = threshold
    while int((confidence >= floor).sum()) < target:  # confidences below the floor are unknown
        floor = floor / 4 if floor > 1e-6 else 0.0
        confidence = class_nms_confidences(boxes, scores, floor)
    best = confidence.sort(descending=True).values
    if margin and 0 < target < len(boxes):  # the confidence of the best dropped proposal must be known too
        confidence = class_nms_confidences(boxes, scores, _lower_by_margin(float(best[target - 1]), margin))
        best = confidence.sort(descending=True).values
        uncertain = _find_uncertain(confidence, float(best[target]), float(best[target - 1]), margin)
    else:
        uncertain = kept[:0]
    return confidence.argsort(descending=True, stable=True)[:target], uncertain


def _lower_by_margin(confidence: float, margin: float) -> float:
    """Return the confidence whose logit is lower by `margin`."""
    odds = confidence / max(1 - confidence, 1e-6) * math.exp(-margin)
    return odds / (1 + odds) if margin else confidence


def _find_uncertain(confidence: Tensor, best_dropped: float, last_kept: float, margin: float) -> Tensor:
    """Return the indices of proposals within `margin` of the other side of the choice, nearest first.

    Args:
        confidence: (n,) float.
        best_dropped: Confidence of the best proposal that is dropped.
        last_kept: Confidence of the last proposal that is kept.
        margin: Distance of logits.
    """
    if not margin:
        return confidence.new_zeros(0, dtype=torch.int64)
    logits = confidence.logit(1e-6)  # float32 has no number nearer to 1
    low, high = confidence.new_tensor([best_dropped, last_kept]).logit(1e-6)
    distance = torch.where(confidence >= last_kept, logits - low, high - logits)
    near = (distance < margin).nonzero().flatten()
    return near[distance[near].argsort(stable=True)]


def class_nms_confidences(boxes: Tensor, scores: Tensor, floor: float) -> Tensor:
    """Compute each proposal's best score among the classes in whose NMS it survives.

    Only scores of at least `floor` are considered, because a score is suppressed only by higher ones. With the usual
    threshold of 0.2 these are at most five classes per proposal, where Caffe runs NMS over all proposals for each of
    1,600 classes.

    Args:
        boxes: (n, 4) float, in pixels.
        scores: (n, classes) float, probabilities without the background.
        floor: Minimum score.

    Returns:
        (n,) float; 0 where no score of at least `floor` survives.
    """
    proposals, classes = (scores >= floor).nonzero(as_tuple=True)
    values = scores[proposals, classes]
    order = classes.argsort(stable=True)
    proposals, classes, values = proposals[order], classes[order], values[order]
    confidence = scores.new_zeros(len(boxes))
    counts = classes.unique_consecutive(return_counts=True)[1].tolist()
    for members, member_scores in zip(proposals.split(counts), values.split(counts), strict=True):
        if len(members) > 1:
            kept = inclusive_nms(boxes[members], member_scores, NMS_IOU)
            members, member_scores = members[kept], member_scores[kept]
        confidence[members] = torch.maximum(confidence[members], member_scores)
    return confidence
