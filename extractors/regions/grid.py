"""Grid features: the cells of the last map of a backbone, without a detector; built by `extractors.registry`.

Jiang et al. 2020, In Defense of Grid Features for Visual Question Answering: nearly as good as regions at a fraction
of the cost, from the C5 map of a ResNet at 600 to 1000 pixels.
Shapes: b images, h x w positions of the map, d channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter

from data.text import suggest_name
from extractors.config import GridConfig
from extractors.nn.inference import DTYPE_NAMES, choose_dtype, network_recipe, optimize_for_inference, to_cpu, to_device
from extractors.nn.state_dict import SUFFIXES, load_state_dict_file, load_state_dict_strict, state_sha256
from extractors.regions.base import WHOLE_IMAGE, PreprocessedImage, RegionExtractor, Regions
from extractors.regions.torchvision_zoo import load_torchvision_weights

VERSION = 2  # raise it when equal settings give other numbers: the recipe, and so the store name, contains it
GPU_LOADERS = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as all of torchvision's backbones expect


class GridExtractor(RegionExtractor):
    """A backbone of torchvision; cells come row by row from the top left, after the whole-image region."""

    classes: tuple[str, ...] = ()

    def __init__(self, config: GridConfig) -> None:
        """Build the backbone up to its layer and load its weights.

        Raises:
            ValueError: The model or layer is unknown, or the weights do not fit.
            FileNotFoundError: The weights do not exist.
        """
        self.config = config
        backbone = _build_backbone(config)
        self.dim = _count_channels(backbone, config)
        _load_weights(backbone, config)
        self._weights_sha256 = state_sha256(backbone)
        self._dtype = choose_dtype(config.device, config.full_precision)
        self._backbone = (
            backbone.to(config.device)
            if config.full_precision
            else optimize_for_inference(backbone, self._dtype, config.device)
        )
        self.num_loaders = 1 if torch.device(config.device).type == "cpu" else GPU_LOADERS

    def _settings_recipe(self) -> dict[str, Any]:
        dtype, weights_sha256 = DTYPE_NAMES[self._dtype], self._weights_sha256
        return network_recipe(self.config, "grid", VERSION, dtype=dtype, weights_sha256=weights_sha256)

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """Normalize an (h, w, 3) uint8 RGB image and resize it bilinearly, keeping its aspect ratio.

        Returns:
            (3, network height, network width) float32 on the device.
        """
        height, width = pixels.shape[:2]
        scale = min(self.config.min_size / min(height, width), self.config.max_size / max(height, width))
        net = [max(round(side * scale), 1) for side in (height, width)]
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        tensor = (tensor - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        resized = interpolate(tensor[None], net, mode="bilinear", align_corners=False, antialias=True)[0]
        return PreprocessedImage(to_device(resized, self.config.device), (width, height))

    @torch.inference_mode()
    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Extract the cells of images whose inputs have the same shape."""
        inputs = torch.stack([image.input for image in batch]).to(self._dtype, memory_format=torch.channels_last)
        maps = self._backbone(inputs)["map"].float()  # (b, d, h, w)
        limit = self.config.max_grid_size or max(maps.shape[2:])
        rows, columns = (min(side, limit) for side in maps.shape[2:])
        cells = adaptive_avg_pool2d(maps, (rows, columns)).flatten(2)  # (b, d, rows * columns)
        if self.config.whole_image:
            cells = torch.cat([maps.mean((2, 3))[:, :, None], cells], dim=2)
        features = to_cpu([cells.transpose(1, 2).half()])[0].numpy()  # (b, cells, d)
        return [self._make_regions(f, (rows, columns), image.size) for f, image in zip(features, batch, strict=True)]

    def _make_regions(self, features: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> Regions:
        boxes = cell_boxes(*grid, *size)
        if self.config.whole_image:
            boxes = np.concatenate([np.array([[0, 0, *size]], np.float32), boxes])
        no_ids = np.full(len(boxes), WHOLE_IMAGE, np.int32)
        ones = np.ones(len(boxes), np.float32)
        return Regions(features, boxes, no_ids, ones, attr_ids=no_ids, attr_scores=np.zeros_like(ones), size=size)


def cell_boxes(rows: int, columns: int, width: int, height: int) -> np.ndarray:
    """Return the boxes of grid cells of equal size that cover an image, row by row.

    Args:
        rows: Number of rows of the grid.
        columns: Number of columns of the grid.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.

    Returns:
        (rows * columns, 4) float32, x1 y1 x2 y2 in pixels.
    """
    x, y = np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4).astype(np.float32)


def _build_backbone(config: GridConfig) -> IntermediateLayerGetter:
    """Build the model up to its layer with random weights, in eval mode; it returns {"map": (b, d, h, w)}."""
    names = models.list_models(module=models)
    if config.model not in names:
        hint = suggest_name(config.model, names, "the networks of torchvision are")
        raise ValueError(f"Unknown backbone {config.model!r}: {hint}. Set `model` to one.")
    model = models.get_model_builder(config.model)(weights=None)
    children = dict(model.named_children())
    if config.layer not in children:
        raise ValueError(
            f"{config.model} does not have the layer {config.layer!r}. Set `layer` to one of {', '.join(children)}."
        )
    return IntermediateLayerGetter(model, {config.layer: "map"}).eval()


def _load_weights(backbone: IntermediateLayerGetter, config: GridConfig) -> None:
    """Load the weights of the configuration into the backbone."""
    if config.weights.endswith(SUFFIXES):
        state, _ = load_state_dict_file(Path(config.weights))
    else:
        state, _ = load_torchvision_weights(config.model, config.weights)
    # Layers above the map, such as the classifier, are not used and may have any shape.
    children = {name for name, _ in backbone.named_children()}
    used = {key: value for key, value in state.items() if key.split(".")[0] in children}
    load_state_dict_strict(backbone, used, f"{config.weights} of {config.model}")


@torch.inference_mode()
def _count_channels(backbone: IntermediateLayerGetter, config: GridConfig) -> int:
    """Return the number of channels of the map.

    Raises:
        ValueError: The layer does not return (b, d, h, w).
    """
    try:
        shape = backbone(torch.zeros(1, 3, 64, 128))["map"].shape
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"{config.model} cannot be run up to {config.layer!r} ({error}). Set `model` to a ResNet."
        ) from error
    if len(shape) != 4 or 2 * shape[2] != shape[3]:
        raise ValueError(
            f"The layer {config.layer!r} of {config.model} returns the shape {tuple(shape)}, not (1, d, h, w). "
            "Set `layer` to another one."
        )
    return shape[1]
