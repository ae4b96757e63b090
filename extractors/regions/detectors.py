"""The Faster R-CNNs: torchvision's by name, and "demo", a small one for 400x300 drawn scenes.

b images, d feature width, h x w the network's input in pixels.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from torch import nn
from torchvision import models
from torchvision.models.detection import FasterRCNN

from extractors.nn.state_dict import SUFFIXES, load_state_dict_file, load_state_dict_strict
from extractors.regions.demo_network import build_demo_detector
from extractors.regions.torchvision_zoo import load_torchvision_weights

DEMO_WEIGHTS = Path(__file__).parent / "weights" / "demo.safetensors"


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
