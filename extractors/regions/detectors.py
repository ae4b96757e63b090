"""Build the Faster R-CNN detectors with their weights: torchvision's by name, and the demo detector.

Used by `TorchvisionExtractor` and by the training of the demo detector.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torchvision import models
from torchvision.models.detection import FasterRCNN

from data.text import suggest_name
from extractors.config import SUFFIXES
from extractors.nn.state_dict import load_state_dict_file, load_state_dict_strict
from extractors.regions.demo_network import build_demo_detector
from extractors.regions.torchvision_zoo import load_torchvision_weights

DEMO_WEIGHTS = Path(__file__).parent / "weights" / "demo.safetensors"


def build_detector(model: str, weights: str) -> tuple[FasterRCNN, tuple[str, ...]]:
    """Build a detector and load its weights.

    Args:
        model: "demo", or the name of a torchvision builder of a Faster R-CNN.
        weights: Name of weights that torchvision publishes, "demo" for the file in this repository, or a path.

    Returns:
        The detector in eval mode, and its class names (index = label, 0 is the background); () if they are unknown.

    Raises:
        ValueError: The model or the name of the weights is unknown, or the weights do not fit the model.
        FileNotFoundError: The weights do not exist.
    """
    _check_model(model)
    path = DEMO_WEIGHTS if weights == "demo" else Path(weights)
    if path.suffix in SUFFIXES:
        detector, classes = _build_from_file(model, path)
    elif model == "demo":
        raise ValueError(f'The model "demo" has no weights {weights!r}. Set `regions.weights` to "demo" or to a file.')
    else:
        detector, classes = _build_from_torchvision(model, weights)
    return detector.eval(), classes


def _check_model(model: str) -> None:
    names = [name for name in models.list_models(module=models.detection) if name.startswith("fasterrcnn")]
    names.append("demo")
    if model not in names:
        raise ValueError(f"Unknown detector {model!r}: {suggest_name(model, names, 'set `model` to one of')}.")


def _build_from_file(model: str, path: Path) -> tuple[FasterRCNN, tuple[str, ...]]:
    state, classes = load_state_dict_file(path)
    bias = state.get("roi_heads.box_predictor.cls_score.bias")
    if bias is None:
        raise ValueError(
            f"The weights {path} lack 'roi_heads.box_predictor.cls_score.bias', so they are not those of a Faster "
            "R-CNN. Set `regions.weights` to another file."
        )
    if classes and len(classes) != len(bias):
        raise ValueError(
            f"The header of {path} lists {len(classes)} classes, but the weights have {len(bias)}. Correct the header."
        )
    if model == "demo":
        detector = build_demo_detector(len(bias))
    else:
        builder = models.get_model_builder(model)
        detector = builder(weights=None, weights_backbone=None, num_classes=len(bias))
        classes = _apply_release(model, path, detector) or classes
    load_state_dict_strict(detector, state, str(path))
    return detector, classes


def _apply_release(model: str, path: Path, detector: nn.Module) -> tuple[str, ...]:
    """Return the class names of a file that torchvision published.

    The file is known by its name, which ends in its hash.

    Also sets what torchvision's builder sets for these weights.
    """
    for entry in models.get_model_weights(model):
        if entry.url.rsplit("/", 1)[-1] == path.name:
            if model == "fasterrcnn_resnet50_fpn":
                # torchvision sets this for these weights, which were trained with frozen batch norms of eps 0.
                for module in detector.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.eps = 0.0
            return tuple(entry.meta["categories"])
    return ()


def _build_from_torchvision(model: str, weights: str) -> tuple[FasterRCNN, tuple[str, ...]]:
    state, entry = load_torchvision_weights(model, weights)
    classes = tuple(entry.meta["categories"])
    detector = models.get_model_builder(model)(weights=None, weights_backbone=None, num_classes=len(classes))
    _apply_release(model, Path(entry.url), detector)
    load_state_dict_strict(detector, state, f"{weights} of {model}")
    return detector, classes
