"""Fast proposals and RoIAlign of a torchvision Faster R-CNN: half-precision convolutions, float32 geometry.

Used by `TorchvisionExtractor` without `full_precision`. Shapes: b images, n proposals of an image, p proposals of all
images, c channels of a map, l levels, a anchors of all levels, k bins per side of a pooled RoI.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_area, clip_boxes_to_image, remove_small_boxes


def select_proposals(rpn: RegionProposalNetwork, maps: list[Tensor], images: ImageList) -> list[Tensor]:
    """Compute the proposals of each image, equal to `rpn(images, maps)` in float32.

    torchvision decodes every anchor (a quarter of a million at 800 x 1066) and converts the anchors to the dtype of the
    maps, in which a coordinate above 256 is wrong by whole pixels. Here the anchors stay float32, and only the best
    ones of each level are decoded.

    Args:
        rpn: Region proposal network of the detector.
        maps: l feature maps of any dtype, (b, c, h, w) each.
        images: The batch from which the maps were computed.

    Returns:
        b tensors (n, 4) float32, x1 y1 x2 y2 in network pixels, best first.
    """
    logits, deltas = rpn.head(maps)  # l x (b, anchors per cell, h, w), l x (b, 4 anchors per cell, h, w)
    levels = [_flatten_anchors(x, 1) for x in logits]  # l x (b, anchors of the level)
    deltas = [_flatten_anchors(x, 4) for x in deltas]  # l x (b, anchors of the level, 4)
    first_image = ImageList(images.tensors[:1], images.image_sizes[:1])
    anchors = rpn.anchor_generator(first_image, [x[:1, :1].float() for x in maps])[0]  # (a, 4)
    anchors = anchors.split([x.shape[1] for x in levels])
    proposals = []
    for image, size in enumerate(images.image_sizes):
        boxes, scores, level_ids = [], [], []
        for number, (level, delta, anchor) in enumerate(zip(levels, deltas, anchors, strict=True)):
            best, index = level[image].float().topk(min(rpn.pre_nms_top_n(), level.shape[1]))
            boxes.append(rpn.box_coder.decode(delta[image][index].float(), [anchor[index]]).reshape(-1, 4))
            scores.append(best.sigmoid())
            level_ids.append(torch.full_like(index, number))
        proposals.append(_filter_boxes(rpn, torch.cat(boxes), torch.cat(scores), torch.cat(level_ids), size))
    return proposals


def _flatten_anchors(x: Tensor, width: int) -> Tensor:
    """Reshape (b, k * width, h, w) to (b, h * w * k[, width]), the order of the anchors.

    This copies nothing if the layout is channels_last.
    """
    flat = x.permute(0, 2, 3, 1).flatten(1)
    return flat if width == 1 else flat.view(len(x), -1, width)


def _filter_boxes(
    rpn: RegionProposalNetwork, boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int]
) -> Tensor:
    """Clip the boxes of one image, and return those that survive NMS, best first.

    Small and low-scored boxes are dropped before.
    """
    boxes = clip_boxes_to_image(boxes, size)
    keep = remove_small_boxes(boxes, rpn.min_size)
    keep = keep[scores[keep] >= rpn.score_thresh]
    boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
    return boxes[batched_nms(boxes, scores, levels, rpn.nms_thresh)[: rpn.post_nms_top_n()]]


def roi_align_by_lookup(
    align: MultiScaleRoIAlign, maps: dict[str, Tensor], proposals: list[Tensor], net: tuple[int, int]
) -> Tensor:
    """Compute RoIAlign over the levels, equal to `align(maps, proposals)` up to rounding.

    Each bin is a weighted sum of map cells, so a pooled RoI is a weighted sum of table rows (`embedding_bag`). On a CPU
    this is ten times faster than torchvision's operator, which accepts only float32 in NCHW, and the maps need no
    conversion.

    Args:
        align: RoIAlign of the detector.
        maps: Feature maps by name, (b, c, h, w) each, channels_last.
        proposals: b tensors (n, 4) float32, x1 y1 x2 y2 in network pixels.
        net: Height and width of the network input in pixels, including padding.

    Returns:
        (p, c, k, k) channels_last in the dtype of the maps.
    """
    levels = [maps[name] for name in align.featmap_names if name in maps]
    table = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in levels])  # (cells of all levels, c)
    boxes = torch.cat(proposals)  # (p, 4)
    log2_strides = [-round(math.log2(x.shape[2] / net[0])) for x in levels]
    level = _choose_level(boxes, align, log2_strides[0], log2_strides[-1])  # (p,)
    num_cells = [x.shape[0] * x.shape[2] * x.shape[3] for x in levels]
    level_shapes = [[x.shape[2], x.shape[3], sum(num_cells[:i])] for i, x in enumerate(levels)]
    height, width, start = boxes.new_tensor(level_shapes, dtype=torch.int64)[level].unbind(1)  # (p,) each
    scaled = boxes * boxes.new_tensor([2.0**-stride for stride in log2_strides])[level][:, None]
    bins, samples = align.output_size[0], align.sampling_ratio
    rows, row_weights = _interpolate_axis(scaled[:, 1], scaled[:, 3], height, bins, samples)  # (p, k, 2 samples) each
    columns, column_weights = _interpolate_axis(scaled[:, 0], scaled[:, 2], width, bins, samples)
    image = torch.repeat_interleave(torch.tensor([len(x) for x in proposals], device=boxes.device))  # (p,)
    first = (start + image * height * width)[:, None, None]
    # Both (p, k, k, 2 samples, 2 samples): for every bin the cells that it samples, and their weights.
    index = (first + rows * width[:, None, None])[:, :, None, :, None] + columns[:, None, :, None, :]
    weight = (row_weights / samples)[:, :, None, :, None] * (column_weights / samples)[:, None, :, None, :]
    num_samples = index.shape[-1] ** 2
    sums = embedding_bag(
        index.reshape(-1, num_samples).int(),
        table,
        per_sample_weights=weight.reshape(-1, num_samples).to(table.dtype),
        mode="sum",
    )  # (p k k, c)
    return sums.view(len(boxes), bins, bins, -1).permute(0, 3, 1, 2)


def _choose_level(boxes: Tensor, align: MultiScaleRoIAlign, lowest: int, highest: int) -> Tensor:
    """Return the level of each box by its size, (p,) int64.

    Source: equation 1 of Lin et al. 2017, Feature Pyramid Networks.
    """
    sides = box_area(boxes).sqrt()
    level = torch.floor(align.canonical_level + torch.log2(sides / align.canonical_scale) + 1e-6)
    return level.clamp(lowest, highest).long() - lowest


def _interpolate_axis(low: Tensor, high: Tensor, limit: Tensor, bins: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return the cells and weights of linear interpolation along one axis.

    They are those of roi_align with aligned=False.

    Args:
        low: (p,), first side of each box, in cells.
        high: (p,), last side of each box, in cells.
        limit: (p,), number of cells.
        bins: Number of bins.
        samples: Number of sampling points per bin.

    Returns:
        Cells, (p, bins, 2 samples) int64, and their weights, of the same shape.
    """
    size = (high - low).clamp(min=1.0) / bins  # (p,), of a bin
    bin_, sample = torch.arange(bins, device=low.device), torch.arange(samples, device=low.device)
    at = low[:, None, None] + bin_[:, None] * size[:, None, None] + (sample + 0.5) * size[:, None, None] / samples
    limit = limit[:, None, None]
    inside = ((at >= -1) & (at <= limit)).to(at.dtype)
    at = at.clamp(min=0)  # (p, bins, samples)
    lower = at.long().clamp_max(limit - 1)
    upper = (lower + 1).clamp_max(limit - 1)
    fraction = (at - lower) * inside
    return torch.cat([lower, upper], -1), torch.cat([inside - fraction, fraction], -1)
