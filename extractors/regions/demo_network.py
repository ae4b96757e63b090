"""Demo network of `extractors`."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import BasicBlock
from torchvision.ops import MultiScaleRoIAlign

WIDTHS = (32, 64, 128, 192)  # channels at strides 4, 8, 16, 32
FPN_WIDTH = 96
FEATURE_WIDTH = 256


def build_demo_detector(classes: int) -> FasterRCNN:
    """The demo's detector with random weights; `classes` counts the background."""
    body = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(_conv(3, 24), _conv(24, WIDTHS[0])),  # (b, 32, h/4, w/4)
            layer1=_stage(WIDTHS[0], WIDTHS[0], stride=1),
            layer2=_stage(WIDTHS[0], WIDTHS[1], stride=2),  # (b, 64, h/8, w/8)
            layer3=_stage(WIDTHS[1], WIDTHS[2], stride=2),  # (b, 128, h/16, w/16)
            layer4=_stage(WIDTHS[2], WIDTHS[3], stride=2),  # (b, 192, h/32, w/32)
        )
    )
    levels = {"layer2": "0", "layer3": "1", "layer4": "2"}
    backbone = BackboneWithFPN(body, levels, list(WIDTHS[1:]), FPN_WIDTH)
    return FasterRCNN(
        backbone,
        min_size=300,
        max_size=400,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
        # Four levels: strides 8, 16, 32 and the pooled 64. Sides in pixels; the last ones are for places.
        rpn_anchor_generator=AnchorGenerator(((20, 32), (48, 68), (96, 140), (200, 320)), ((0.5, 1.0, 2.0),) * 4),
        rpn_pre_nms_top_n_train=600,
        rpn_post_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=128,
        rpn_batch_size_per_image=96,
        box_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2, canonical_scale=112),
        box_head=TwoMLPHead(FPN_WIDTH * 7 * 7, FEATURE_WIDTH),
        box_score_thresh=0.02,
        box_predictor=FastRCNNPredictor(FEATURE_WIDTH, classes),
    )


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _stage(inputs: int, outputs: int, stride: int, blocks: int = 2) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    rest = [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), *rest)
