"""CPU time per image of torchvision's detectors, plain and optimized."""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from data.config import DatasetConfig
from data.datasets.load import load_dataset
from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from data.store.store import Store
from extractors.config import Detectron2Config, TorchvisionConfig
from extractors.regions.detectors import build_detector
from extractors.regions.detectron2_faster_rcnn import Detectron2Extractor, find_config_file
from extractors.regions.faster_rcnn import TorchvisionExtractor
from pipeline.stages.extract import extract_regions
from pipeline.workers import make_process_map
from pipeline.workspace import Workspace
from tests.bench.common import cpu, show
from tests.helpers.image_bytes import picture
from tests.helpers.random_bottom_up import calibrate_norm
from tests.helpers.random_networks import calibrated, pictures

DETECTORS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn")


def detectors() -> None:
    """Measure one image on one thread: torchvision's own call, and our extractors with the same weights."""
    scene, photo = render_scene(compose_scene(7, 0))[0], picture(0, 480, 640)
    show("demo detector, a scene of 400x300", _detector_rows("demo", "demo", np.asarray(scene), 5))
    with tempfile.TemporaryDirectory() as folder:
        for name in DETECTORS:
            weights = str(_weights(name, Path(folder)))
            show(f"{name}, 640x480, random weights", _detector_rows(name, weights, photo, 2))


def _detector_rows(model: str, weights: str, image: np.ndarray, repeats: int) -> list[tuple[str, float, str]]:
    plain, _ = build_detector(model, weights)
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        rows = [("torchvision's model(image)", cpu(lambda: plain([tensor]), repeats), "float32, NCHW")]
    for label, exact in (("exact", True), ("fast", False)):
        found = TorchvisionExtractor(TorchvisionConfig(model=model, weights=weights, full_precision=exact))
        rows.append((label, cpu(lambda e=found: e([image]), repeats), found.recipe["dtype"]))
    return rows


def _weights(name: str, folder: Path) -> Path:
    """Write random weights with calibrated batch norms, so that all proposals survive, as with trained weights."""
    torch.manual_seed(0)
    detector = {"weights_backbone": None} if name.startswith("fasterrcnn") else {}
    model: nn.Module = calibrated(models.get_model_builder(name)(weights=None, **detector), pictures(2, 384, 512))
    path = folder / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}, path)
    return path


def detectron2() -> None:
    """Measure detectron2's own model and our extractor with the same weights, if detectron2 is installed."""
    try:
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model
    except ImportError:
        Console().print("detectron2 is not installed: its predictor is not measured\n")
        return
    photo = picture(0, 480, 640)
    for name in ("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"):
        with tempfile.TemporaryDirectory() as folder:
            config = Detectron2Config(model=name, weights=Path(folder) / "random.safetensors")
            cfg = get_cfg()
            cfg.merge_from_file(str(find_config_file(name)), allow_unsafe=False)
            cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
            torch.manual_seed(0)
            model = build_model(cfg).eval()
            for module in model.modules():
                if hasattr(module, "running_mean"):
                    module.register_forward_pre_hook(calibrate_norm)
            bgr = torch.from_numpy(photo[:, :, ::-1].copy()).permute(2, 0, 1).float()
            resized = nn.functional.interpolate(bgr[None], (800, 1067), mode="bilinear")[0]
            inputs = [{"image": resized, "height": 480, "width": 640}]
            with torch.no_grad():
                model(inputs)
            for module in model.modules():
                module._forward_pre_hooks.clear()
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, config.weights)
            ours = Detectron2Extractor(config)
            with torch.inference_mode():
                rows = [("detectron2's model", cpu(lambda m=model, g=inputs: m(g), 2), "resize not counted")]
            rows.append(("our backend", cpu(lambda e=ours: e([photo]), 2), "features too"))
            show(f"{name}, 640x480 at 1067x800, random weights", rows)


def photographs(folder: Path, source: Path, model: str = "fasterrcnn_resnet50_fpn") -> None:
    """Measure the extraction stage on a folder (`dataset_flickr8k.json`, `images`) with two workers of one thread."""
    weights = str(_weights(model, folder))
    dataset = load_dataset(
        DatasetConfig(name="flickr8k", annotations=source / "dataset_flickr8k.json", images=source / "images")
    )
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    config = TorchvisionConfig(model=model, weights=weights)
    store = Store(extract_regions(config, dataset, Workspace(folder), 100, make_process_map(2, "region features")))
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    invalid = len(store.invalid_items) + len(dataset.invalid_records)
    Console().print(
        f"{model}, {config.kind}, {store.recipe['dtype']}: {len(store):,} images in {wall:,.0f} s, "
        f"{cpu_seconds / len(store):.2f} CPU s per image, start of the workers included; {invalid} invalid"
    )
