"""Anchors, deltas and scores into proposals: Caffe's proposal layer, where a box includes its last pixel.

Matched to lib/rpn/generate_anchors.py, proposal_layer.py and lib/fast_rcnn/bbox_transform.py of Anderson et al.
k anchors of an image, n proposals; boxes are x1 y1 x2 y2, a width is x2 - x1 + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from extractors.bottom_up.pooling import STRIDE

RATIOS = (0.5, 1.0, 2.0)  # height by width
SCALES = (4, 8, 16, 32)  # of a base box of 16 pixels
PRE_NMS_TOP_N = 6000  # boxes, the best
NMS_IOU = 0.7
MIN_BOX_SIDE = 16  # pixels of the image as it was before it was resized


def caffe_anchors() -> Tensor:
    """(12, 4) float32: the base box (0, 0, 15, 15) in each ratio, sides rounded, in each scale; ratio-major."""
    found = []
    for ratio in RATIOS:
        width = round((16 * 16 / ratio) ** 0.5)
        height = round(width * ratio)
        for scale in SCALES:
            half_w, half_h = (width * scale - 1) / 2, (height * scale - 1) / 2
            found.append([7.5 - half_w, 7.5 - half_h, 7.5 + half_w, 7.5 + half_h])
    return torch.tensor(found)


def make_anchor_grid(anchors: Tensor, height: int, width: int) -> Tensor:
    """The anchors of every cell of a map: (12, 4) -> (height width 12, 4), row-major cells, anchors fastest."""
    y, x = torch.meshgrid(
        torch.arange(height, device=anchors.device) * STRIDE,
        torch.arange(width, device=anchors.device) * STRIDE,
        indexing="ij",
    )
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)  # (c, 1, 4)
    return (anchors + shifts).reshape(-1, 4)


def apply_deltas(boxes: Tensor, deltas: Tensor, limit: tuple[float, float]) -> Tensor:
    """Boxes moved and stretched by deltas, clipped to [0, limit - 1]: (k, 4), (k, 4) -> (k, 4).

    `limit` is width and height in pixels. As Caffe has it, x2 is the center plus half the width, without "- 1".
    """
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    centers = boxes[:, :2] + 0.5 * sides
    centers = deltas[:, :2] * sides + centers
    halves = 0.5 * (deltas[:, 2:].exp() * sides)
    last = boxes.new_tensor(limit) - 1
    corners = (centers - halves, centers + halves)
    return torch.cat([torch.minimum(corner, last).clamp_min(0) for corner in corners], 1)


def select_proposals(logits: Tensor, boxes: Tensor, scale: float, limit: int = 300) -> Tensor:
    """The proposals of one image, best first: logits (k,), boxes (k, 4) -> (up to `limit`, 4), all in net pixels.

    Small boxes go before the best 6000 are taken; `scale` is net pixels a pixel of the image.
    """
    able = ((boxes[:, 2:] - boxes[:, :2] + 1) >= MIN_BOX_SIDE * scale).all(1).nonzero().flatten()
    order = able[logits[able].argsort(descending=True, stable=True)[:PRE_NMS_TOP_N]]
    return boxes[nms_top_k(boxes[order], logits[order], limit, order)]


def nms_top_k(boxes: Tensor, scores: Tensor, wanted: int, names: Tensor) -> Tensor:
    """`names` of the first `wanted` boxes that NMS leaves; boxes come best first.

    What NMS keeps of a prefix does not depend on what follows it, so a prefix is tried before the whole.
    """
    size = 4 * wanted
    while True:
        kept = inclusive_nms(boxes[:size], scores[:size], NMS_IOU)
        if len(kept) >= wanted or size >= len(boxes):
            return names[kept[:wanted]]
        size *= 2


def inclusive_nms(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """NMS with Caffe's overlap, in which a box includes its last pixel. Indices, best score first.

    As Caffe's cpu_nms: it drops from `overlap` on and torchvision above it, and both compare a float32 with a double,
    which no quotient equals. (Caffe's GPU code compares in float32 and keeps a box at exactly 3/10.)
    """
    return nms(boxes + boxes.new_tensor([0, 0, 1, 1]), scores, overlap)
