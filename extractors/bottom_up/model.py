"""The network, top to bottom: ResNet-101 to res4, the proposal head, a dilated res5 for every RoI, four classifiers.

Layer by layer Anderson et al.'s models/vg/ResNet-101/faster_rcnn_end2end_final/test.prototxt.
b images, h x w the net's input in pixels, c cells (h/16 * w/16), a = 12 anchors a cell, n RoIs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d

from extractors.bottom_up.pooling import POOLED, RoITable

ANCHORS = 12  # 3 ratios x 4 scales a cell
BLOCKS = (3, 4, 23)  # of res2, res3, res4
DIM = 2048  # of pool5_flat, the stored feature
EMBED = 256  # of the class that the attribute head is told


class RoIScores(NamedTuple):
    """What the heads say of n RoIs."""

    classes: Tensor  # (n, 1 + classes) probabilities; 0 is the background
    attributes: Tensor | None  # (n, 1 + attributes) probabilities; 0 is "no attribute"; None without that head


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with the stride in the first (and in the shortcut), as the MSRA models have it."""

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1):
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
        """(b, inputs, h, w) -> (b, 4 width, h/stride, w/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.forward_after_conv1(F.relu_(self.bn1(self.conv1(x))), shortcut)

    def forward_after_conv1(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """What follows the first convolution."""
        x = F.relu_(self.bn2(self.conv2(x)))
        return F.relu_(self.bn3(self.conv3(x)).add_(shortcut))


def make_stage(inputs: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Bottlenecks in a row; the first one has the stride."""
    first = Bottleneck(inputs, width, stride, dilation)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, 1, dilation) for _ in range(blocks - 1)))


class Stem(nn.Module):
    """7x7/2 and a max-pool that is not padded but rounds its size up, as Caffe's does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 64, h/4, w/4)."""
        return F.max_pool2d(F.relu_(self.bn1(self.conv1(x))), 3, 2, padding=0, ceil_mode=True)


class RPNHead(nn.Module):
    """For each anchor of each cell a logit and four deltas."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1024, 512, 3, padding=1)
        self.objectness = nn.Conv2d(512, ANCHORS, 1)  # foreground less background: orders as Caffe's softmax does
        self.deltas = nn.Conv2d(512, 4 * ANCHORS, 1)
        self.register_buffer("anchors", torch.zeros(ANCHORS, 4))  # x1 y1 x2 y2 in net pixels, x2 and y2 included

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 1024, h/16, w/16) -> logits (b, c a), deltas (b, c a, 4); row-major cells, anchors fastest."""
        hidden = F.relu_(self.conv(maps))
        logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(maps), -1, 4)
        return logits, deltas


class BottomUpRCNN(nn.Module):
    """The whole of it, with frozen batch norms. `classes` and `attributes` count what is told apart, backgrounds not.

    `attributes = 0`: a model without that head.
    """

    def __init__(self, classes: int = 1600, attributes: int = 400):
        super().__init__()
        self.stem = Stem()
        self.res2 = make_stage(64, 64, BLOCKS[0])
        self.res3 = make_stage(256, 128, BLOCKS[1], stride=2)
        self.res4 = make_stage(512, 256, BLOCKS[2], stride=2)
        self.rpn = RPNHead()
        self.res5 = make_stage(1024, 512, 3, dilation=2)
        self.cls_score = nn.Linear(DIM, classes + 1)
        self.bbox_pred = nn.Linear(DIM, 4 * (classes + 1))  # of every class, the background too; not normalized
        self.attributes = attributes
        if attributes:
            self.cls_embed = nn.Embedding(classes + 1, EMBED)
            self.attr_fc = nn.Linear(DIM + EMBED, 512)
            self.attr_score = nn.Linear(512, attributes + 1)

    def backbone_features(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) BGR less the mean -> res4, (b, 1024, h/16, w/16)."""
        return self.res4(self.res3(self.res2(self.stem(x))))

    def classify(self, features: Tensor) -> RoIScores:
        """pool5_flat (n, 2048) -> probabilities."""
        logits = self.cls_score(features)  # (n, 1 + classes)
        if not self.attributes:
            return RoIScores(logits.softmax(1), None)
        told = self.cls_embed(logits.argmax(1))  # (n, 256); the background is a class here
        hidden = F.relu_(self.attr_fc(torch.cat([features, told], 1)))
        return RoIScores(logits.softmax(1), self.attr_score(hidden).softmax(1))

    def deltas(self, features: Tensor, classes: Tensor) -> Tensor:
        """Of each RoI the deltas for its class (0 the background), (n, 2048), (n,) -> (n, 4)."""
        weight = self.bbox_pred.weight.view(-1, 4, DIM)[classes]  # (n, 4, 2048)
        return torch.einsum("nd,nkd->nk", features, weight) + self.bbox_pred.bias.view(-1, 4)[classes]


class MkldnnConv1x1(nn.Conv2d):
    """A 1x1 convolution by oneDNN: on one thread torch takes another library for it, half as fast where measured."""

    def __init__(self, like: nn.Conv2d):
        super().__init__(like.in_channels, like.out_channels, 1, like.stride, device="meta")
        self.weight, self.bias = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        """What `nn.Conv2d` gives, for float32 on a CPU."""
        return torch.mkldnn_convolution(x, self.weight, self.bias, [0, 0], self.stride, [1, 1], 1)


def apply_in_chunks(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """`function` over `size` rows at a time: what it makes of a chunk stays in the processor's cache."""
    return torch.cat([function(part) for part in rows.split(size)]) if len(rows) > size else function(rows)


def pool5_features(res5: nn.Module, pooled: Tensor) -> Tensor:
    """(n, 1024, 14, 14) pooled RoIs -> pool5_flat (n, 2048), the feature of the field."""
    return res5(pooled).mean((2, 3))


def pool5_features_fast(res5: nn.Sequential, pooled: RoITable, size: int) -> Tensor:
    """pool5_flat (n, 2048) of pooled RoIs, by a res5 whose batch norms are folded, `size` RoIs at a time.

    What is done to each bin alone, the first 1x1 convolution and the shortcut, is done once for each distinct bin.
    """
    first, *others = res5
    entered = F.relu_(F.linear(pooled.rows, first.conv1.weight.flatten(1), first.conv1.bias))  # (u, 512)
    shortcut = F.linear(pooled.rows, first.downsample[0].weight.flatten(1), first.downsample[0].bias)  # (u, 2048)

    def features(place: Tensor) -> Tensor:
        x = first.forward_after_conv1(
            *(rows[place].unflatten(1, (POOLED, POOLED)).permute(0, 3, 1, 2) for rows in (entered, shortcut))
        )
        for block in others:
            x = block(x)  # (size, 2048, 14, 14)
        return x.mean((2, 3), dtype=torch.float32)

    return apply_in_chunks(features, pooled.index, size)
