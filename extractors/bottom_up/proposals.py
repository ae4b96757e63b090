"""Compute proposals from anchors, deltas and scores, as Caffe's proposal layer does; used by `BottomUpExtractor`.

A box includes its last pixel, so its width is x2 - x1 + 1. Matches lib/rpn/generate_anchors.py,
lib/rpn/proposal_layer.py and lib/fast_rcnn/bbox_transform.py of Anderson et al.
Shapes: k anchors of an image, n proposals; boxes are x1 y1 x2 y2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from extractors.bottom_up.pooling import STRIDE

RATIOS = (0.5, 1.0, 2.0)  # height by width
SCALES = (4, 8, 16, 32)  # of a base box of 16 pixels
PRE_NMS_TOP_N = 6000  # boxes with the best scores
NMS_IOU = 0.7
MIN_BOX_SIDE = 16  # pixels of the original image


def caffe_anchors() -> Tensor:
    """Return Caffe's anchors: box (0, 0, 15, 15) in each ratio, sides rounded, then in each scale.

    Returns:
        (12, 4) float32 in network pixels, ratio-major.
    """
    anchors = []
    for ratio in RATIOS:
        width = round((16 * 16 / ratio) ** 0.5)
        height = round(width * ratio)
        for scale in SCALES:
            half_w, half_h = (width * scale - 1) / 2, (height * scale - 1) / 2
            anchors.append([7.5 - half_w, 7.5 - half_h, 7.5 + half_w, 7.5 + half_h])
    return torch.tensor(anchors)


def make_anchor_grid(anchors: Tensor, height: int, width: int) -> Tensor:
    """Repeat the anchors at every cell of a map.

    Args:
        anchors: (12, 4) float, in network pixels.
        height: Height of the map, in cells.
        width: Width of the map, in cells.

    Returns:
        (height * width * 12, 4) in network pixels; cells in row-major order, anchors fastest.
    """
    y, x = torch.meshgrid(
        torch.arange(height, device=anchors.device) * STRIDE,
        torch.arange(width, device=anchors.device) * STRIDE,
        indexing="ij",
    )
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)  # (cells, 1, 4)
    return (anchors + shifts).reshape(-1, 4)


def apply_deltas(boxes: Tensor, deltas: Tensor, limit: tuple[float, float]) -> Tensor:
    """Move and scale boxes by deltas, and clip them to [0, limit - 1].

    As in Caffe, x2 is the center plus half the width, without "- 1".

    Args:
        boxes: (k, 4) float.
        deltas: (k, 4) float, dx dy dw dh.
        limit: Width and height in pixels.

    Returns:
        (k, 4) float.
    """
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    centers = boxes[:, :2] + 0.5 * sides
    centers = deltas[:, :2] * sides + centers
    halves = 0.5 * (deltas[:, 2:].exp() * sides)
    last = boxes.new_tensor(limit) - 1
    corners = (centers - halves, centers + halves)
    return torch.cat([torch.minimum(corner, last).clamp_min(0) for corner in corners], 1)


def select_proposals(logits: Tensor, boxes: Tensor, scale: float, limit: int = 300) -> Tensor:
    """Select the proposals of one image.

    Small boxes are dropped before the best 6000 are taken.

    Args:
        logits: (k,) float.
        boxes: (k, 4) float, in network pixels.
        scale: Network pixels per pixel of the image.
        limit: Maximum number of proposals.

    Returns:
        (at most `limit`, 4) in network pixels, best first.
    """
    large = ((boxes[:, 2:] - boxes[:, :2] + 1) >= MIN_BOX_SIDE * scale).all(1).nonzero().flatten()
    order = large[logits[large].argsort(descending=True, stable=True)[:PRE_NMS_TOP_N]]
    return boxes[nms_top_k(boxes[order], logits[order], limit, order)]


def nms_top_k(boxes: Tensor, scores: Tensor, k: int, indices: Tensor) -> Tensor:
    """Return the indices of the first `k` boxes that survive NMS.

    Which boxes of a prefix survive does not depend on later boxes, so short prefixes are tried first.

    Args:
        boxes: (n, 4) float, best first.
        scores: (n,) float.
        k: Number of boxes.
        indices: (n,) int64, values to return for the boxes.

    Returns:
        (at most `k`,) int64.
    """
    size = 4 * k
    while True:
        kept = inclusive_nms(boxes[:size], scores[:size], NMS_IOU)
        if len(kept) >= k or size >= len(boxes):
            return indices[kept[:k]]
        size *= 2


def inclusive_nms(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Run NMS with Caffe's overlap, in which a box includes its last pixel.

    Caffe's cpu_nms drops a box at an overlap of `overlap` or more, and torchvision at more than `overlap`. Both compare
    a float32 overlap with a double that no float32 equals, so the results agree. (Caffe's GPU code compares in float32
    and keeps a box at exactly 3/10.)

    Args:
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        scores: (n,).
        overlap: Intersection over union from which the box with the lower score is dropped, 0 to 1.

    Returns:
        Indices of the kept boxes, best score first.
    """
    return nms(boxes + boxes.new_tensor([0, 0, 1, 1]), scores, overlap)
