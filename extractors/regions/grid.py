"""Grid features: the cells of maps of a backbone of timm, without a detector; built by `extractors.registry`.

Jiang et al. 2020, In Defense of Grid Features for Visual Question Answering: nearly as good as regions at a fraction
of the cost. Shapes: b images, r rows of an image, h x w positions of a map, d channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from extractors.config import GridConfig
from extractors.regions.base import WHOLE_IMAGE, PreprocessedImage, RegionExtractor, Regions
from extractors.regions.grid_backbone import load_grid_backbone
from extractors.torch_free import OnnxBackbone, is_cpu, network_recipe

VERSION = 3  # raise it when equal settings give other numbers: the recipe, and so the store name, contains it
GPU_LOADERS, GPU_BATCH = 16, 32
NOT_IN_RECIPE = ("full_precision", "layer", "grid_size", "image_size")  # in another form, or in the dtype


class GridExtractor(RegionExtractor):
    """A backbone of timm; cells come row by row from the top left, grid by grid, after the whole-image region."""

    classes: tuple[str, ...] = ()

    def __init__(self, config: GridConfig) -> None:
        """Build the backbone and load its weights.

        Raises:
            ValueError: The model or layer is unknown, or the weights do not fit.
            FileNotFoundError: The weights do not exist.
        """
        self.config = config
        self._backbone = load_grid_backbone(config)
        self._info = info = self._backbone.info
        if max(config.grid_sizes) > info.map_side:
            raise ValueError(
                f"grid_size {max(config.grid_sizes)} is above the {info.map_side} rows of the map of "
                f"{', '.join(config.layers)} at {info.fit.image_size} pixels. Set `grid_size` to {info.map_side} or "
                "less, or a larger `image_size`."
            )
        self.dim = sum(info.channels)
        self.min_decoded_side = info.fit.min_decoded_side
        if not is_cpu(config.device):
            self.num_loaders = GPU_LOADERS
            self.batch_size = GPU_BATCH if info.fit.is_square else 1

    def _settings_recipe(self) -> dict[str, Any]:
        config, info = self.config, self._info
        settings = {"layers": list(config.layers), "grid_sizes": list(config.grid_sizes), **info.fit.model_dump()}
        numerics = {"dtype": self._backbone.dtype_name, "runtime": self._backbone.name}
        settings["weights_sha256"] = info.weights_sha256
        return network_recipe(config, "grid", VERSION, NOT_IN_RECIPE, **settings, **numerics)

    def preprocess(self, pixels: np.ndarray) -> PreprocessedImage:
        """Resize and crop an (h, w, 3) uint8 RGB image as timm's transforms do.

        Returns:
            (network height, network width, 3) uint8 on the device; the network normalizes the colors.
        """
        height, width = pixels.shape[:2]
        inputs: Any = self._info.fit.prepare(pixels)
        if not isinstance(self._backbone, OnnxBackbone):
            inputs = self._backbone.to_device(inputs)
        return PreprocessedImage(inputs, (width, height))

    def extract(self, batch: list[PreprocessedImage]) -> list[Regions]:
        """Extract the cells of images whose inputs have the same shape.

        A batch on a GPU always has the same size, because the last bits depend on it.
        """
        sizes = (1, *self.config.grid_sizes) if self.config.whole_image else self.config.grid_sizes
        inputs = [image.input for image in batch]
        if isinstance(self._backbone, OnnxBackbone):
            features = [self._backbone.compute_rows(pixels, sizes, self.config.normalize) for pixels in inputs]
        else:
            inputs += inputs[-1:] * (self.batch_size - len(batch))
            features = list(self._backbone.compute_rows(inputs, sizes, self.config.normalize))
        return [self._make_regions(rows, image.size) for rows, image in zip(features, batch, strict=False)]

    def _make_regions(self, features: np.ndarray, size: tuple[int, int]) -> Regions:
        left, top, right, bottom = seen = self._info.fit.seen_box(size)
        grids = [
            cell_boxes(n, n, right - left, bottom - top) + np.array([left, top, left, top], np.float32)
            for n in self.config.grid_sizes
        ]
        boxes = np.concatenate([np.array([seen], np.float32), *grids] if self.config.whole_image else grids)
        no_ids = np.full(len(boxes), WHOLE_IMAGE, np.int32)
        ones = np.ones(len(boxes), np.float32)
        return Regions(features, boxes, no_ids, ones, attr_ids=no_ids, attr_scores=np.zeros_like(ones), size=size)


def cell_boxes(rows: int, columns: int, width: float, height: float) -> np.ndarray:
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
