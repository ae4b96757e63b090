"""Network of the demo detector: a small Faster R-CNN for drawn scenes of 400 x 300 pixels.

The names of its modules are parameter names in `weights/demo.safetensors`. Shapes: b images, h x w network input.
"""

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


def build_demo_detector(num_classes: int) -> FasterRCNN:
    """Build the demo detector with random weights; `num_classes` includes the background."""
    body = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(_make_conv(3, 24), _make_conv(24, WIDTHS[0])),  # (b, 32, h/4, w/4)
            layer1=_make_stage(WIDTHS[0], WIDTHS[0], stride=1),
            layer2=_make_stage(WIDTHS[0], WIDTHS[1], stride=2),  # (b, 64, h/8, w/8)
            layer3=_make_stage(WIDTHS[1], WIDTHS[2], stride=2),  # (b, 128, h/16, w/16)
            layer4=_make_stage(WIDTHS[2], WIDTHS[3], stride=2),  # (b, 192, h/32, w/32)
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
        # Anchor sides in pixels for strides 8, 16, 32 and 64 (pooled); the largest are for places such as a lake.
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
        box_predictor=FastRCNNPredictor(FEATURE_WIDTH, num_classes),
    )


def _make_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Make a 3x3 convolution of stride 2 with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _make_stage(in_channels: int, out_channels: int, stride: int, num_blocks: int = 2) -> nn.Sequential:
    """Make a stage of residual blocks; the first one has the stride."""
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    rest = [BasicBlock(out_channels, out_channels) for _ in range(num_blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride, shortcut), *rest)
