"""RoI max-pooling by table lookup, used by `BottomUpExtractor`: equal to Caffe's and faster where RoIs overlap.

A bin is a rectangle of cells, and the RoIs of an image use few distinct rectangles. The maximum over every distinct
rectangle is a row of a table, and a pooled RoI is 196 rows of it. Rows are channels-last.
Shapes: h x w cells of the map, n RoIs, u distinct rectangles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POOLED = 14  # bins per side of a pooled RoI
STRIDE = 16  # network pixels per cell of the map


@dataclass(frozen=True)
class RoITable:
    """Pooled RoIs as rows of a table: `rows[index[i]]` is RoI i."""

    rows: Tensor
    """(u, channels), one row for each distinct rectangle"""
    index: Tensor
    """(n, 196) int64 into `rows`, bins in row-major order"""


def roi_bins(low: Tensor, high: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Compute the cells of the 14 bins of each RoI along one axis.

    As in caffe/src/caffe/layers/roi_pooling_layer.cpp, halves are rounded up and the computation is in float32.

    Args:
        low: (n,) float, left or top edge of each RoI, in network pixels.
        high: (n,) float, right or bottom edge of each RoI, in network pixels.
        cells: Number of cells of the map along the axis.

    Returns:
        First cell of each bin, and the cell after its last one, (n, 14) int64 each.
    """
    start, end = ((edge.double() / STRIDE + 0.5).floor() for edge in (low, high))
    size = (end - start + 1).clamp_min(1).float()
    step = (size / POOLED)[:, None]
    bin_ = torch.arange(POOLED, device=low.device)
    bin_start = (bin_ * step).floor() + start[:, None].float()
    bin_end = ((bin_ + 1) * step).ceil() + start[:, None].float()
    return bin_start.clamp(0, cells).long(), bin_end.clamp(0, cells).long()


def roi_max_pool(maps: Tensor, boxes: Tensor) -> RoITable:
    """Pool RoIs to 14 x 14 bins, bit for bit equal to `torchvision.ops.roi_pool(maps, boxes, 14, 1/16)`.

    Args:
        maps: (1, channels, h, w).
        boxes: (n, 4) float, x1 y1 x2 y2 in network pixels.

    Returns:
        The pooled RoIs; a bin outside the map is a row of zeros.
    """
    height, width = maps.shape[2:]
    top, bottom = roi_bins(boxes[:, 1], boxes[:, 3], height)
    left, right = roi_bins(boxes[:, 0], boxes[:, 2], width)
    bin_heights, bin_widths = bottom - top, right - left  # (n, 14), 0 where the bin is empty
    base = int(bin_widths.amax().clamp_min(0)) + 1 if len(boxes) else 1
    # One number encodes the size (height * base + width) and the upper left cell of a rectangle. All are (n, 196).
    sizes = (bin_heights.clamp_min(0)[:, :, None] * base + bin_widths.clamp_min(0)[:, None]).flatten(1)
    empty = ((bin_heights <= 0)[:, :, None] | (bin_widths <= 0)[:, None]).flatten(1)
    cells = (top[:, :, None] * width + left[:, None]).flatten(1)
    numbers = torch.where(empty, 0, sizes * (height * width) + cells)
    distinct, index = numbers.unique(return_inverse=True)
    return RoITable(_compute_rows(maps[0].permute(1, 2, 0), distinct, base), index)


def _compute_rows(cells: Tensor, rectangles: Tensor, base: int) -> Tensor:
    """Compute the maxima over numbered rectangles: (h, w, channels), (u,) -> (u, channels)."""
    height, width, channels = cells.shape
    sizes, corners = rectangles // (height * width), rectangles % (height * width)
    rows = cells.new_zeros(len(rectangles), channels)  # size 0 is an empty bin
    for size in sizes.unique().tolist():
        bin_height, bin_width = divmod(size, base)
        if bin_height and bin_width:
            selected = (sizes == size).nonzero().flatten()
            rows[selected] = _sliding_maxima(cells, bin_height, bin_width).reshape(-1, channels)[corners[selected]]
    return rows


def _sliding_maxima(cells: Tensor, bin_height: int, bin_width: int) -> Tensor:
    """Compute the maximum of every rectangle of one size: (h, w, channels) -> same.

    It is stored at the upper left cell of the rectangle.

    Values at cells where the rectangle does not fit into the map are not meaningful.
    """
    height, width = cells.shape[:2]
    maxima = cells.clone()
    for step in range(1, bin_height):
        torch.maximum(maxima[: height - step], cells[step:], out=maxima[: height - step])
    columns = maxima.clone()
    for step in range(1, bin_width):
        torch.maximum(maxima[:, : width - step], columns[:, step:], out=maxima[:, : width - step])
    return maxima
