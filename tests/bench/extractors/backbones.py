"""CPU time per photograph of grid features, with decoding: through ONNX Runtime, and of plain timm in torch."""

import io
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from extractors.config import GridConfig
from extractors.nn.backbone import load_backbone
from extractors.regions.base import RegionExtractor
from extractors.registry import build_region_extractor
from extractors.torch_free import find_weights_file
from tests.bench.common import cpu, show
from tests.helpers.image_bytes import picture

SHARED = Path(__file__).parents[4] / "shared" / "flickr8k"
NUM_PHOTOS = 16


def backbones() -> None:
    """Measure photographs on one thread: the rows of the photo model, and one vector of plain timm."""
    photos = {
        "224-pixel AVIF": _read(SHARED / "whole/images", "*.avif") or _draw("AVIF", 224, 224, quality=80),
        "500-pixel JPEG": _read(SHARED / "images", "*.jpg") or _draw("JPEG", 375, 500, quality=90),
    }
    for title, contents in photos.items():
        rows = []
        for side in (260, 384):
            config = GridConfig(
                model="tf_efficientnet_lite2", weights="photos", image_size=side, layer=("blocks.6", "bn2")
            ).model_copy(update={"grid_size": (1, 2, 3), "normalize": True})
            ours = build_region_extractor(config)
            name = f"EfficientNet-Lite2, {side} pixels, {ours.recipe['runtime']}"
            rows.append((name, _time(ours, contents), "14 rows"))
        for side in (260, 384):
            model = load_backbone(config, find_weights_file(config))[0].model
            rows.append((f"the same, {side} pixels, timm in torch", _time_timm(model, side, contents), "maps"))
        vit = timm.create_model("vit_base_patch32_clip_224", num_classes=0).eval()
        rows.append(("ViT-B/32 of CLIP, 224 pixels, timm in torch", _time_timm(vit, 224, contents), "random weights"))
        show(f"backbones, {title}, decoding included, per photograph", rows)


def _read(folder: Path, pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob(pattern))[:NUM_PHOTOS]]


def _draw(form: str, height: int, width: int, **options: int) -> list[bytes]:
    contents = []
    for seed in range(NUM_PHOTOS):
        noise = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
        buffer = io.BytesIO()
        pixels = np.clip(picture(seed, height, width) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, form, **options)
        contents.append(buffer.getvalue())
    return contents


def _time(extractor: RegionExtractor, contents: list[bytes]) -> float:
    return cpu(lambda: [extractor.extract_reduced(extractor.load(content)) for content in contents]) / len(contents)


def _time_timm(model: torch.nn.Module, side: int, contents: list[bytes]) -> float:
    transform = create_transform(**(resolve_model_data_config(model) | {"input_size": (3, side, side)}))

    @torch.inference_mode()
    def run() -> None:
        for content in contents:
            model.forward_features(transform(Image.open(io.BytesIO(content)).convert("RGB"))[None])

    return cpu(run, 2) / len(contents)
