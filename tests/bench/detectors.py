"""What an image costs: torchvision's detectors plain and fast, and a grid."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from data.demo import compose, paint
from extractors.detector import build
from extractors.faster_rcnn import TorchvisionConfig, TorchvisionExtractor
from extractors.grid import GridConfig, GridExtractor
from tests.bench.common import cpu, show
from tests.calibrated import calibrated, pictures
from tests.test_images import picture

DETECTORS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn")


def detectors() -> None:
    """One image on one thread: torchvision's own call, and the same weights in ours."""
    scene, photo = paint(compose(7, 0))[0], picture(0, 480, 640)
    show("demo detector, a scene of 400x300", _detector_rows("demo", "demo", np.asarray(scene), 5))
    with tempfile.TemporaryDirectory() as folder:
        for name in DETECTORS:
            weights = str(_weights(name, Path(folder)))
            show(f"{name}, 640x480, random weights", _detector_rows(name, weights, photo, 2))
        weights = str(_weights("resnet50", Path(folder)))
        kinds = {
            label: GridExtractor(GridConfig(weights=weights, exact=label == "exact")) for label in ("exact", "fast")
        }
        rows = [(label, cpu(lambda e=e: e([photo]), 2), e.fingerprint["arithmetic"]) for label, e in kinds.items()]
        show("grid of resnet50's layer4, 640x480 at 800x600", rows)


def _detector_rows(model: str, weights: str, image: np.ndarray, repeats: int) -> list[tuple[str, float, str]]:
    plain, _ = build(model, weights)
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        rows = [("torchvision's model(image)", cpu(lambda: plain([tensor]), repeats), "float32, NCHW")]
    for label, exact in (("exact", True), ("fast", False)):
        found = TorchvisionExtractor(TorchvisionConfig(model=model, weights=weights, exact=exact))
        rows.append((label, cpu(lambda e=found: e([image]), repeats), found.fingerprint["arithmetic"]))
    return rows


def _weights(name: str, folder: Path) -> Path:
    """A file of random weights whose batch norms know what they see: all proposals survive, as with trained ones."""
    torch.manual_seed(0)
    detector = {"weights_backbone": None} if name.startswith("fasterrcnn") else {}
    model: nn.Module = calibrated(models.get_model_builder(name)(weights=None, **detector), pictures(2, 384, 512))
    path = folder / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}, path)
    return path
