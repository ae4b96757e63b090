"""RoI max-pooling by look-up: the same bins as Caffe's, several times cheaper where RoIs overlap.

A bin is a rectangle of cells, and a few rectangles serve all RoIs of an image: the maximum over every rectangle of each
height and width that occurs is a row of a table, and a pooled RoI is 196 rows of it. Rows are channels-last.
n RoIs, u distinct rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POOLED = 14  # bins a side of a pooled RoI
STRIDE = 16  # net pixels a cell of the map


@dataclass(frozen=True)
class RoITable:
    """RoIs as rows of a table: `rows[place[i]]` is RoI i."""

    rows: Tensor  # (u, channels), each different in place or size
    index: Tensor  # (n, 196) int64 into rows, row-major bins


def roi_bins(low: Tensor, high: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """First cell and end of each of the 14 bins along one axis: (n,), (n,) net pixels -> two (n, 14) int64.

    The arithmetic of caffe/src/caffe/layers/roi_pooling_layer.cpp, which rounds halves up and computes in float32.
    """
    start, end = ((edge.double() / STRIDE + 0.5).floor() for edge in (low, high))
    size = (end - start + 1).clamp_min(1).float()
    step = (size / POOLED)[:, None]
    bin_ = torch.arange(POOLED, device=low.device)
    first = (bin_ * step).floor() + start[:, None].float()
    last = ((bin_ + 1) * step).ceil() + start[:, None].float()
    return first.clamp(0, cells).long(), last.clamp(0, cells).long()


def roi_max_pool(maps: Tensor, boxes: Tensor) -> RoITable:
    """(1, channels, h, w), (n, 4) in net pixels -> the pooled RoIs, 14 x 14 bins each.

    Equal, bit for bit, to torchvision.ops.roi_pool(maps, boxes, 14, 1/16). A bin off the map is a row of zeros.
    """
    height, width = maps.shape[2:]
    top, bottom = roi_bins(boxes[:, 1], boxes[:, 3], height)
    left, right = roi_bins(boxes[:, 0], boxes[:, 2], width)
    tall, wide = bottom - top, right - left  # (n, 14), 0 where the bin is empty
    most_wide = int(wide.amax().clamp_min(0)) + 1 if len(boxes) else 1
    kind = (tall.clamp_min(0)[:, :, None] * most_wide + wide.clamp_min(0)[:, None]).flatten(1)  # (n, 196)
    empty = ((tall <= 0)[:, :, None] | (wide <= 0)[:, None]).flatten(1)
    cell = (top[:, :, None] * width + left[:, None]).flatten(1)
    name = torch.where(empty, 0, kind * (height * width) + cell)
    names, place = name.unique(return_inverse=True)
    return RoITable(_rows(maps[0].permute(1, 2, 0), names, most_wide), place)


def _rows(cells: Tensor, names: Tensor, most_wide: int) -> Tensor:
    """The maxima over the rectangles named, (h, w, channels), (u,) -> (u, channels)."""
    height, width, channels = cells.shape
    kinds, where = names // (height * width), names % (height * width)
    out = cells.new_zeros(len(names), channels)  # kind 0 is empty
    for kind in kinds.unique().tolist():
        tall, wide = divmod(kind, most_wide)
        if tall and wide:
            chosen = (kinds == kind).nonzero().flatten()
            out[chosen] = _maxima(cells, tall, wide).reshape(-1, channels)[where[chosen]]
    return out


def _maxima(cells: Tensor, tall: int, wide: int) -> Tensor:
    """Of every rectangle of this size, at the cell of its upper left corner; the rest of the map is not meant."""
    height, width = cells.shape[:2]
    found = cells.clone()
    for step in range(1, tall):
        torch.maximum(found[: height - step], cells[step:], out=found[: height - step])
    rows = found.clone()
    for step in range(1, wide):
        torch.maximum(found[:, : width - step], rows[:, step:], out=found[:, : width - step])
    return found
