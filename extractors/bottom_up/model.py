"""Network of the bottom-up model: ResNet-101 to res4, proposal head, a dilated res5 for every RoI, classifiers.

Matches models/vg/ResNet-101/faster_rcnn_end2end_final/test.prototxt of Anderson et al. layer by layer. The names of the
modules are parameter names in the files of `tern weights convert`.
Shapes: b images, h x w network input in pixels, c = h/16 * w/16 cells, a = 12 anchors per cell, n RoIs, u distinct
bins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d

from extractors.bottom_up.pooling import POOLED, RoITable

ANCHORS = 12  # 3 ratios x 4 scales per cell
BLOCKS = (3, 4, 23)  # of res2, res3, res4
WIDTH = 64  # channels of the stem; all other numbers of channels are multiples. Tests build a narrow model.
EMBED = 256  # of the class embedding that is an input of the attribute head


class RoIScores(NamedTuple):
    """Predicted probabilities of n RoIs."""

    classes: Tensor
    """(n, 1 + classes); index 0 is the background"""
    attributes: Tensor | None
    """(n, 1 + attributes); index 0 is "no attribute"; None without an attribute head"""


class Bottleneck(nn.Module):
    """Residual block of convolutions 1x1, 3x3, 1x1, as in MSRA's models.

    The first convolution and the shortcut have the stride.
    """

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(4 * width)
        self.downsample = None
        if inputs != 4 * width:
            shortcut = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, FrozenBatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block: (b, inputs, h, w) -> (b, 4 width, h/stride, w/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)  # (b, 4 width, h/stride, w/stride)
        return self.forward_after_conv1(F.relu_(self.bn1(self.conv1(x))), shortcut)

    def forward_after_conv1(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Compute the block after its first convolution.

        Args:
            x: (b, width, h, w), output of the first convolution.
            shortcut: (b, 4 width, h, w).

        Returns:
            (b, 4 width, h, w).
        """
        x = F.relu_(self.bn2(self.conv2(x)))  # (b, width, h, w)
        return F.relu_(self.bn3(self.conv3(x)).add_(shortcut))


def make_stage(inputs: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Make a sequence of bottlenecks with 4 * `width` output channels.

    Args:
        inputs: Number of input channels.
        width: Number of channels inside each bottleneck.
        blocks: Number of bottlenecks; at least 1.
        stride: Stride of the first bottleneck; the others have 1.
        dilation: Dilation of all bottlenecks.
    """
    first = Bottleneck(inputs, width, stride, dilation)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, 1, dilation) for _ in range(blocks - 1)))


class Stem(nn.Module):
    """7x7 convolution of stride 2, and max-pooling without padding, as in Caffe.

    The pooling rounds its output size up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.bn1 = FrozenBatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stem: (b, 3, h, w) -> (b, 64, h/4, w/4)."""
        return F.max_pool2d(F.relu_(self.bn1(self.conv1(x))), 3, 2, padding=0, ceil_mode=True)


class RPNHead(nn.Module):
    """Predicts a logit and four deltas for each anchor of each cell."""

    anchors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16 * WIDTH, 512, 3, padding=1)
        # Foreground minus background logit, which orders anchors as Caffe's softmax does.
        self.objectness = nn.Conv2d(512, ANCHORS, 1)
        self.deltas = nn.Conv2d(512, 4 * ANCHORS, 1)
        self.register_buffer("anchors", torch.zeros(ANCHORS, 4))  # x1 y1 x2 y2 in network pixels, x2 and y2 included

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits and deltas.

        Args:
            maps: (b, 1024, h/16, w/16).

        Returns:
            Logits, (b, c a), and deltas, (b, c a, 4); cells in row-major order, anchors fastest.
        """
        hidden = F.relu_(self.conv(maps))  # (b, 512, h/16, w/16)
        logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(maps), -1, 4)
        return logits, deltas


class BottomUpRCNN(nn.Module):
    """The complete model with frozen batch norms.

    Args:
        classes: Number of classes without the background.
        attributes: Number of attributes without "no attribute"; 0 builds a model without an attribute head.
    """

    def __init__(self, classes: int = 1600, attributes: int = 400) -> None:
        super().__init__()
        self.stem = Stem()
        self.dim = 32 * WIDTH  # 2048, of pool5_flat, the stored feature
        self.res2 = make_stage(WIDTH, WIDTH, BLOCKS[0])
        self.res3 = make_stage(4 * WIDTH, 2 * WIDTH, BLOCKS[1], stride=2)
        self.res4 = make_stage(8 * WIDTH, 4 * WIDTH, BLOCKS[2], stride=2)
        self.rpn = RPNHead()
        self.res5 = make_stage(16 * WIDTH, 8 * WIDTH, 3, dilation=2)
        self.cls_score = nn.Linear(self.dim, classes + 1)
        self.bbox_pred = nn.Linear(self.dim, 4 * (classes + 1))  # for every class and the background; not normalized
        self.attributes = attributes
        if attributes:
            self.cls_embed = nn.Embedding(classes + 1, EMBED)
            self.attr_fc = nn.Linear(self.dim + EMBED, 512)
            self.attr_score = nn.Linear(512, attributes + 1)

    def backbone_features(self, x: Tensor) -> Tensor:
        """Compute res4 of BGR pixels without the mean: (b, 3, h, w) -> (b, 1024, h/16, w/16)."""
        return self.res4(self.res3(self.res2(self.stem(x))))

    def classify(self, features: Tensor) -> RoIScores:
        """Predict class and attribute probabilities of pool5_flat features, (n, 2048)."""
        logits = self.cls_score(features)  # (n, 1 + classes)
        if not self.attributes:
            return RoIScores(logits.softmax(1), None)
        class_embedding = self.cls_embed(logits.argmax(1))  # (n, 256); the background is one of the classes
        hidden = F.relu_(self.attr_fc(torch.cat([features, class_embedding], 1)))  # (n, 512)
        return RoIScores(logits.softmax(1), self.attr_score(hidden).softmax(1))

    def deltas(self, features: Tensor, classes: Tensor) -> Tensor:
        """Predict the deltas of each RoI for its class (0 is the background): (n, 2048), (n,) -> (n, 4)."""
        weight = self.bbox_pred.weight.view(-1, 4, self.dim)[classes]  # (n, 4, 2048)
        return torch.einsum("nd,nkd->nk", features, weight) + self.bbox_pred.bias.view(-1, 4)[classes]


class MkldnnConv1x1(nn.Conv2d):
    """A 1x1 convolution by oneDNN.

    On one thread, torch uses another library for it, which was half as fast.
    """

    def __init__(self, like: nn.Conv2d) -> None:
        stride = like.stride[0], like.stride[1]
        super().__init__(like.in_channels, like.out_channels, 1, stride, device="meta")
        self.weight, self.bias = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        """Compute what `nn.Conv2d` computes, for float32 on a CPU."""
        return torch.mkldnn_convolution(x, self.weight, self.bias, [0, 0], self.stride, [1, 1], 1)


def apply_in_chunks(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """Apply a function to a few rows at a time, so that its intermediate results fit into the processor cache.

    Args:
        function: Function of rows (k, ...) that treats each row on its own.
        rows: (n, ...).
        size: Maximum number of rows per call.

    Returns:
        (n, ...), as `function` returns for all rows.
    """
    return torch.cat([function(part) for part in rows.split(size)]) if len(rows) > size else function(rows)


def pool5_features(res5: nn.Module, pooled: Tensor) -> Tensor:
    """Compute pool5_flat, the stored feature, of pooled RoIs: (n, 1024, 14, 14) -> (n, 2048)."""
    return res5(pooled).mean((2, 3))


def pool5_features_fast(res5: nn.Sequential, pooled: RoITable, size: int) -> Tensor:
    """Compute pool5_flat of pooled RoIs with folded batch norms.

    The first 1x1 convolution and the shortcut treat each bin alone, so they are computed once per distinct bin.

    Args:
        res5: res5 of the model with folded batch norms.
        pooled: Table of n pooled RoIs.
        size: Number of RoIs to compute at a time.

    Returns:
        (n, 2048) float32.
    """
    blocks: list[Any] = list(res5)
    first, *others = blocks
    entered = F.relu_(F.linear(pooled.rows, first.conv1.weight.flatten(1), first.conv1.bias))  # (u, 512)
    shortcut = F.linear(pooled.rows, first.downsample[0].weight.flatten(1), first.downsample[0].bias)  # (u, 2048)

    def compute_features(index: Tensor) -> Tensor:
        """Compute the features of some regions: (size, 196) int64 -> (size, 2048)."""
        inputs = (
            rows[index].unflatten(1, (POOLED, POOLED)).permute(0, 3, 1, 2)  # (size, 512 or 2048, 14, 14)
            for rows in (entered, shortcut)
        )
        x = first.forward_after_conv1(*inputs)
        for block in others:
            x = block(x)  # (size, 2048, 14, 14)
        return x.mean((2, 3), dtype=torch.float32)

    return apply_in_chunks(compute_features, pooled.index, size)
