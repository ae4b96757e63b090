"""The fast road through a torchvision Faster R-CNN: its convolutions in half precision, its geometry in float32.

b images, p proposals of all images, c channels of a map, l levels, a anchors of all levels.
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
    """The proposals of each image, (n, 4) float32 in net pixels, best first: what `rpn(images, maps)` gives.

    torchvision decodes every anchor (a quarter of a million at 800 x 1066) and lets the anchors take the dtype of
    the maps, in which a coordinate above 256 is off by whole pixels. Here they stay float32, and only the best of
    each level are decoded.
    """
    logits, deltas = rpn.head(maps)  # l x (b, anchors a cell, h, w), l x (b, 4 anchors a cell, h, w)
    levels = [_cells(x, 1) for x in logits]  # l x (b, a of the level)
    deltas = [_cells(x, 4) for x in deltas]  # l x (b, a of the level, 4)
    shape = ImageList(images.tensors[:1], images.image_sizes[:1])
    anchors = rpn.anchor_generator(shape, [x[:1, :1].float() for x in maps])[0]  # (a, 4)
    anchors = anchors.split([x.shape[1] for x in levels])
    found = []
    for image, size in enumerate(images.image_sizes):
        boxes, scores, which = [], [], []
        for number, (level, delta, anchor) in enumerate(zip(levels, deltas, anchors, strict=True)):
            best, index = level[image].float().topk(min(rpn.pre_nms_top_n(), level.shape[1]))
            boxes.append(rpn.box_coder.decode(delta[image][index].float(), [anchor[index]]).reshape(-1, 4))
            scores.append(best.sigmoid())
            which.append(torch.full_like(index, number))
        found.append(_survivors(rpn, torch.cat(boxes), torch.cat(scores), torch.cat(which), size))
    return found


def _cells(x: Tensor, width: int) -> Tensor:
    """(b, k * width, h, w) -> (b, h * w * k[, width]), the order of the anchors."""
    flat = x.permute(0, 2, 3, 1).flatten(1)  # free where x is channels_last
    return flat if width == 1 else flat.view(len(x), -1, width)


def _survivors(
    rpn: RegionProposalNetwork, boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int]
) -> Tensor:
    boxes = clip_boxes_to_image(boxes, size)
    keep = remove_small_boxes(boxes, rpn.min_size)
    keep = keep[scores[keep] >= rpn.score_thresh]
    boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
    return boxes[batched_nms(boxes, scores, levels, rpn.nms_thresh)[: rpn.post_nms_top_n()]]


def roi_align_by_lookup(
    align: MultiScaleRoIAlign, maps: dict[str, Tensor], proposals: list[Tensor], net: tuple[int, int]
) -> Tensor:
    """RoIAlign over the levels, (p, c, k, k) channels_last in the maps' dtype: what `align(maps, proposals)` gives.

    Each bin is a weighted sum of map cells, so all of it is one sum of table rows (`embedding_bag`): on a CPU ten times
    faster than torchvision's operator, which takes float32 and NCHW only, and the map needs no conversion.
    `net` is (height, width) of the network's input in pixels, padding and all.
    """
    levels = [maps[name] for name in align.featmap_names if name in maps]
    table = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in levels])  # (cells of all levels, c)
    boxes = torch.cat(proposals)  # (p, 4)
    strides = [-round(math.log2(x.shape[2] / net[0])) for x in levels]  # as powers of two
    level = _level(boxes, align, strides[0], strides[-1])  # (p,)
    cells = [x.shape[0] * x.shape[2] * x.shape[3] for x in levels]
    about = [[x.shape[2], x.shape[3], sum(cells[:i])] for i, x in enumerate(levels)]
    height, width, start = boxes.new_tensor(about, dtype=torch.int64)[level].unbind(1)
    scaled = boxes * boxes.new_tensor([2.0**-stride for stride in strides])[level][:, None]
    bins, samples = align.output_size[0], align.sampling_ratio
    rows, down = _taps(scaled[:, 1], scaled[:, 3], height, bins, samples)  # (p, k, 2 samples) each
    columns, across = _taps(scaled[:, 0], scaled[:, 2], width, bins, samples)
    image = torch.repeat_interleave(torch.tensor([len(x) for x in proposals], device=boxes.device))
    first = (start + image * height * width)[:, None, None]
    index = (first + rows * width[:, None, None])[:, :, None, :, None] + columns[:, None, :, None, :]
    weight = (down / samples)[:, :, None, :, None] * (across / samples)[:, None, :, None, :]  # (p, k, k, taps, taps)
    taps = index.shape[-1] ** 2
    sums = embedding_bag(
        index.reshape(-1, taps).int(), table, per_sample_weights=weight.reshape(-1, taps).to(table.dtype), mode="sum"
    )
    return sums.view(len(boxes), bins, bins, -1).permute(0, 3, 1, 2)


def _level(boxes: Tensor, align: MultiScaleRoIAlign, lowest: int, highest: int) -> Tensor:
    """Which level each box is pooled from, by its size: equation 1 of Lin et al. 2017, Feature Pyramid Networks."""
    sides = box_area(boxes).sqrt()
    level = torch.floor(align.canonical_level + torch.log2(sides / align.canonical_scale) + 1e-6)
    return level.clamp(lowest, highest).long() - lowest


def _taps(low: Tensor, high: Tensor, limit: Tensor, bins: int, samples: int) -> tuple[Tensor, Tensor]:
    """Cells and weights along one axis: (p, bins, 2 samples) each, as in torchvision's roi_align with aligned=False.

    low, high (p,) are a box's sides in cells, limit (p,) the cells there are.
    """
    size = (high - low).clamp(min=1.0) / bins  # (p,), of a bin
    bin_, sample = torch.arange(bins, device=low.device), torch.arange(samples, device=low.device)
    at = low[:, None, None] + bin_[:, None] * size[:, None, None] + (sample + 0.5) * size[:, None, None] / samples
    limit = limit[:, None, None]
    inside = ((at >= -1) & (at <= limit)).to(at.dtype)
    at = at.clamp(min=0)  # (p, bins, samples)
    lower = at.long().clamp_max(limit - 1)
    upper = (lower + 1).clamp_max(limit - 1)
    part = (at - lower) * inside
    return torch.cat([lower, upper], -1), torch.cat([inside - part, part], -1)
