"""The Faster R-CNNs: torchvision's by name, and "demo", a small one for 400x300 drawn scenes.

b images, d feature width, h x w the network's input in pixels.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from pathlib import Path

from torch import nn
from torchvision import models
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import BasicBlock
from torchvision.ops import MultiScaleRoIAlign

from extractors.state import SUFFIXES, load_state_dict_file, load_state_dict_strict, load_torchvision_weights

DEMO_WEIGHTS = Path(__file__).parent / "weights" / "demo.safetensors"
WIDTHS = (32, 64, 128, 192)  # channels at strides 4, 8, 16, 32
FPN_WIDTH = 96
FEATURE_WIDTH = 256


def build_detector(model: str, weights: str) -> tuple[FasterRCNN, tuple[str, ...]]:
    """A detector in eval mode and its class names (index = label, 0 the background; () when not known).

    `model` is "demo" or a torchvision Faster R-CNN builder; `weights` a torchvision weights name, "demo" (the
    shipped file) or a path. Raises ValueError for unknown names and misfits, FileNotFoundError.
    """
    _check_model(model)
    path = DEMO_WEIGHTS if weights == "demo" else Path(weights)
    if path.suffix in SUFFIXES:
        detector, classes = _from_file(model, path)
    elif model == "demo":
        raise ValueError(f'the model "demo" has no weights {weights!r}: use "demo" or a file')
    else:
        detector, classes = _from_torchvision(model, weights)
    return detector.eval(), classes


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


def _check_model(model: str) -> None:
    names = [name for name in models.list_models(module=models.detection) if name.startswith("fasterrcnn")]
    names.append("demo")
    if model not in names:
        near = difflib.get_close_matches(model, names, n=1, cutoff=0.0)[0]
        raise ValueError(f"no detector is called {model!r}: did you mean {near!r}? There are {', '.join(names)}")


def _from_file(model: str, path: Path) -> tuple[FasterRCNN, tuple[str, ...]]:
    state, classes = load_state_dict_file(path)
    bias = state.get("roi_heads.box_predictor.cls_score.bias")
    if bias is None:
        raise ValueError(f"weights {path} lack 'roi_heads.box_predictor.cls_score.bias': they are no Faster R-CNN's")
    if classes and len(classes) != len(bias):
        raise ValueError(f"weights {path} name {len(classes)} classes and score {len(bias)}: the header is wrong")
    if model == "demo":
        detector = build_demo_detector(len(bias))
    else:
        builder = models.get_model_builder(model)
        detector = builder(weights=None, weights_backbone=None, num_classes=len(bias))
        classes = _adopt_release(model, path, detector) or classes
    load_state_dict_strict(detector, state, str(path))
    return detector, classes


def _adopt_release(model: str, path: Path, detector: nn.Module) -> tuple[str, ...]:
    """Class names of a file that torchvision published, known by its file name (which ends in its hash)."""
    for entry in models.get_model_weights(model):
        if entry.url.rsplit("/", 1)[-1] == path.name:
            if model == "fasterrcnn_resnet50_fpn":
                # torchvision sets this for these weights, trained with frozen batch norms of eps 0.
                for module in detector.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.eps = 0.0
            return tuple(entry.meta["categories"])
    return ()


def _from_torchvision(model: str, weights: str) -> tuple[FasterRCNN, tuple[str, ...]]:
    state, entry = load_torchvision_weights(model, weights)
    classes = tuple(entry.meta["categories"])
    detector = models.get_model_builder(model)(weights=None, weights_backbone=None, num_classes=len(classes))
    _adopt_release(model, Path(entry.url), detector)
    load_state_dict_strict(detector, state, f"{model} {weights}")
    return detector, classes
