"""Choose the regions of an image among scored boxes; used by the torchvision and detectron2 extractors.

Shapes: n boxes of an image, d feature size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

from extractors.config import Detectron2Config, TorchvisionConfig
from extractors.nn.inference import to_cpu
from extractors.regions.base import WHOLE_IMAGE, Regions


def select_regions(
    features: Tensor,
    scores: Tensor,
    class_ids: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    config: TorchvisionConfig | Detectron2Config,
) -> Regions:
    """Select the regions of one image among its proposals.

    Args:
        features: (n, d) float.
        scores: (n,) float, probability of the best class; changed in place.
        class_ids: (n,) int; changed in place.
        boxes: (n, 4) float, x1 y1 x2 y2 in pixels of the image.
        size: Width and height of the image, in pixels.
        config: Limits of the selection. With `whole_image`, row 0 of the arguments is the whole-image region, which is
            always kept.

    Returns:
        The regions, best score first, after the whole-image region.
    """
    boxes, first = clip_boxes_to_image(boxes, (size[1], size[0])), int(config.whole_image)
    if first:
        boxes[0] = boxes.new_tensor([0, 0, *size])
        class_ids[0], scores[0] = WHOLE_IMAGE, 1.0
    keep = select_boxes(boxes[first:], scores[first:], config.max_regions, config.nms_iou, config.min_score)
    rows = torch.cat([torch.arange(first, device=keep.device), keep + first])
    selected = to_cpu([features[rows].half(), boxes[rows], class_ids[rows].int(), scores[rows]])
    region_features, region_boxes, region_ids, region_scores = (tensor.numpy() for tensor in selected)
    return Regions(
        region_features,
        region_boxes,
        region_ids,
        region_scores,
        attr_ids=np.full(len(rows), -1, np.int32),
        attr_scores=np.zeros_like(region_scores),
        size=size,
    )


def select_boxes(boxes: Tensor, scores: Tensor, limit: int, iou: float, min_score: float = 0.0) -> Tensor:
    """Select the best boxes by class-agnostic NMS.

    With a `min_score`, the boxes that survive NMS and reach it are selected, up to `limit`. Without one, if too few
    boxes survive, the allowed overlap is raised by 0.1 until there are enough (0.3 to 0.9 in
    airsplay/py-bottom-up-attention, demo/detectron2_mscoco_proposal_maxnms.py). So a store with a fixed number of
    regions contains the least redundant boxes.

    Args:
        boxes: (n, 4) float, x1 y1 x2 y2 in pixels.
        scores: (n,) float.
        limit: Maximum number of boxes.
        iou: Intersection over union above which only the box with the higher score is kept, 0 to 1.
        min_score: Minimum score; 0 fills up to `limit`.

    Returns:
        (at most `limit`,) int64, indices of the selected boxes, best score first.
    """
    target = min(limit, len(boxes)) if min_score == 0 else 0
    kept = nms(boxes, scores, iou)
    kept = kept[scores[kept] >= min_score]
    while len(kept) < target:
        iou += 0.1
        more = nms(boxes, scores, min(iou, 1.0))
        kept = torch.cat([kept, more[~torch.isin(more, kept)]])
    kept = kept[:limit]
    return kept[scores[kept].argsort(descending=True, stable=True)]
