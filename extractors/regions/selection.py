"""Selection of `extractors`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

from extractors.nn.inference import to_cpu
from extractors.regions.base import WHOLE_IMAGE, Regions


def select_regions(
    features: Tensor, scores: Tensor, classes: Tensor, boxes: Tensor, size: tuple[int, int], config: Any
) -> Regions:
    """The rows of one image among its proposals, the whole image first where `config.whole_image` put it there.

    (n, d), (n,), (n,), (n, 4) in pixels; `config` says max_regions, min_score, nms_iou and whole_image.
    """
    boxes, first = clip_boxes_to_image(boxes, (size[1], size[0])), int(config.whole_image)
    if first:
        boxes[0] = boxes.new_tensor([0, 0, *size])
        classes[0], scores[0] = WHOLE_IMAGE, 1.0
    keep = select_boxes(boxes[first:], scores[first:], config.max_regions, config.nms_iou, config.min_score)
    rows = torch.cat([torch.arange(first, device=keep.device), keep + first])
    found = to_cpu([features[rows].half(), boxes[rows], classes[rows].int(), scores[rows]])
    features, boxes, classes, scores = (tensor.numpy() for tensor in found)
    none = np.full(len(boxes), -1, np.int32)
    return Regions(features, boxes, classes, scores, attr_ids=none, attr_scores=np.zeros_like(scores), size=size)


def select_boxes(boxes: Tensor, scores: Tensor, limit: int, iou: float, min_score: float = 0.0) -> Tensor:
    """Indices of at most `limit` boxes, best score first: class-agnostic NMS, then the top scores.

    With a `min_score` that is all: as many rows as there are things. Without one, where too few survive, the
    overlap allowed is raised by 0.1 until there are enough (0.3 to 0.9 in airsplay/py-bottom-up-attention,
    demo/detectron2_mscoco_proposal_maxnms.py), so that fixed-size stores fill up with the least redundant boxes.
    boxes (n, 4), scores (n,); returns (up to limit,) int64.
    """
    wanted = min(limit, len(boxes)) if min_score == 0 else 0
    kept = nms(boxes, scores, iou)
    kept = kept[scores[kept] >= min_score]
    while len(kept) < wanted:
        iou += 0.1
        more = nms(boxes, scores, min(iou, 1.0))
        kept = torch.cat([kept, more[~torch.isin(more, kept)]])
    kept = kept[:limit]
    return kept[scores[kept].argsort(descending=True, stable=True)]
