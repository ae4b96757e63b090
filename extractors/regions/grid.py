"""Pixels to rows of grid features: the cells of a backbone's last map, no boxes searched.

Jiang et al. 2020, In Defense of Grid Features for Visual Question Answering: nearly as good as regions at a fraction
of the cost, from the C5 map of a ResNet at 600 to 1000 pixels. Cells of h x w map positions, d channels.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter

from extractors.config import GridConfig
from extractors.nn.inference import DTYPE_NAMES, choose_dtype, optimize_for_inference, to_cpu, to_device
from extractors.nn.state_dict import SUFFIXES, load_state_dict_file, load_state_dict_strict, state_sha256
from extractors.regions.base import WHOLE_IMAGE, PreprocessedImage, RegionExtractor, Regions
from extractors.regions.torchvision_zoo import load_torchvision_weights

VERSION = 2  # to be raised when equal settings give other numbers: stores are named by it
GPU_BATCH = 16  # images
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which all of torchvision's backbones take


class GridExtractor(RegionExtractor):
    """A backbone with its weights; rows come line by line from the top left cell, the whole image before them."""

    classes: tuple[str, ...] = ()

    def __init__(self, config: GridConfig) -> None:
        """Raises ValueError for an unknown model or layer or weights that do not fit, FileNotFoundError."""
        self.config = config
        trunk = _trunk(config)
        self.dim: int = _depth(trunk, config)
        _load(trunk, config)
        self._weights_sha256 = state_sha256(trunk)
        self._dtype = choose_dtype(config.device, config.full_precision)
        self._trunk = (
            trunk.to(config.device)
            if config.full_precision
            else optimize_for_inference(trunk, self._dtype, config.device)
        )
        self.batch_size = 1 if torch.device(config.device).type == "cpu" else GPU_BATCH

    def _settings_recipe(self) -> dict[str, Any]:
        """What decides the numbers, for the recipe: the config, the arithmetic, the hash of the weights used."""
        settings = self.config.model_dump(exclude={"kind", "weights", "device"})
        made_by = {"dtype": DTYPE_NAMES[self._dtype], "weights_sha256": self._weights_sha256}
        return {"extractor": "grid", "version": VERSION, **settings, **made_by}

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """Normalised, resized bilinearly with its aspect kept: `(3, net h, net w)` float32, on the device."""
        height, width = pixels.shape[:2]
        scale = min(self.config.min_size / min(height, width), self.config.max_size / max(height, width))
        net = [max(round(side * scale), 1) for side in (height, width)]
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        tensor = (tensor - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        resized = interpolate(tensor[None], net, mode="bilinear", align_corners=False, antialias=True)[0]
        return PreprocessedImage(to_device(resized, self.config.device), (width, height))

    @torch.inference_mode()
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Cells of images whose inputs have one shape."""
        inputs = torch.stack([image.input for image in batch]).to(self._dtype, memory_format=torch.channels_last)
        maps = self._trunk(inputs)["map"].float()  # (b, d, h, w)
        limit = self.config.max_grid_size or max(maps.shape[2:])
        rows, columns = (min(side, limit) for side in maps.shape[2:])
        cells = adaptive_avg_pool2d(maps, (rows, columns)).flatten(2)  # (b, d, rows * columns)
        if self.config.whole_image:
            cells = torch.cat([maps.mean((2, 3))[:, :, None], cells], dim=2)
        features = to_cpu([cells.transpose(1, 2).half()])[0].numpy()
        return [self._regions(f, (rows, columns), image.size) for f, image in zip(features, batch, strict=True)]

    def _regions(self, features: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> Regions:
        boxes = cell_boxes(*grid, *size)
        if self.config.whole_image:
            boxes = np.concatenate([np.array([[0, 0, *size]], np.float32), boxes])
        none = np.full(len(boxes), WHOLE_IMAGE, np.int32)
        ones = np.ones(len(boxes), np.float32)
        return Regions(features, boxes, none, ones, attr_ids=none, attr_scores=np.zeros_like(ones), size=size)


def cell_boxes(rows: int, columns: int, width: int, height: int) -> np.ndarray:
    """(rows * columns, 4) float32, x1 y1 x2 y2 in pixels: tiles of one size that cover the image, line by line."""
    x, y = np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4).astype(np.float32)


def _trunk(config: GridConfig) -> nn.Module:
    """The model up to its layer, in eval mode, with random weights: gives {"map": (b, d, h, w)}."""
    names = models.list_models(module=models)
    if config.model not in names:
        near = difflib.get_close_matches(config.model, names, n=1, cutoff=0.0)[0]
        raise ValueError(f"no backbone is called {config.model!r}: did you mean {near!r}?")
    whole = models.get_model_builder(config.model)(weights=None)
    children = dict(whole.named_children())
    if config.layer not in children:
        raise ValueError(f"{config.model} has no layer {config.layer!r}: use one of {', '.join(children)}")
    return IntermediateLayerGetter(whole, {config.layer: "map"}).eval()


def _load(trunk: nn.Module, config: GridConfig) -> None:
    """Fit the weights named in the config into the trunk."""
    if config.weights.endswith(SUFFIXES):
        state, _ = load_state_dict_file(Path(config.weights))
    else:
        state, _ = load_torchvision_weights(config.model, config.weights)
    # What comes after the layer, the classifier above all, may have any shape.
    mine = {key: value for key, value in state.items() if key.split(".")[0] in trunk}
    load_state_dict_strict(trunk, mine, f"{config.model} {config.weights}")


@torch.inference_mode()
def _depth(trunk: nn.Module, config: GridConfig) -> int:
    """Channels of the map; ValueError where the layer gives none of (b, d, h, w), as in transformers."""
    try:
        shape = trunk(torch.zeros(1, 3, 64, 128))["map"].shape
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{config.model} cannot be run up to {config.layer!r} ({error}): use a ResNet") from error
    if len(shape) != 4 or 2 * shape[2] != shape[3]:
        raise ValueError(f"{config.model}'s {config.layer!r} gives {tuple(shape)}, not (1, d, h, w): use another layer")
    return shape[1]
