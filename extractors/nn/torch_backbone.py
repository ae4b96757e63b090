"""Backbones of a grid extractor in torch: on a GPU, and on a CPU those that cannot be exported to ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from extractors.config import GridConfig
from extractors.nn.backbone import Backbone
from extractors.nn.inference import DTYPE_NAMES, choose_dtype, to_cpu, to_device
from extractors.torch_free import BackboneInfo


class TorchBackbone:
    """A backbone in torch, in half precision where the machine supports it.

    Args:
        backbone: The backbone, in float32.
        info: What is known of it.
        config: Device and precision.
    """

    name = "torch"

    def __init__(self, backbone: Backbone, info: BackboneInfo, config: GridConfig) -> None:
        self.info, self.dtype = info, choose_dtype(config.device, config.full_precision)
        self.dtype_name = DTYPE_NAMES[self.dtype]
        self._device = config.device
        self._backbone = backbone.to(config.device).to(memory_format=torch.channels_last)
        self._backbone.model.to(self.dtype)

    def to_device(self, pixels: np.ndarray) -> Tensor:
        """Copy a network input to the device."""
        return to_device(torch.from_numpy(pixels), self._device)

    def run(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of inputs (b, height, width, 3) uint8 on the device: per layer (b, d, h, w)."""
        return self._backbone(inputs)

    @torch.inference_mode()
    def compute_rows(self, inputs: list[Tensor], grid_sizes: Sequence[int], is_normalized: bool) -> np.ndarray:
        """Compute the rows of images, as `OnnxBackbone.compute_rows` does.

        Args:
            inputs: (height, width, 3) uint8 each, on the device.
            grid_sizes: Sides of the grids whose cells are averaged.
            is_normalized: Whether the features of each layer have unit length in each row.

        Returns:
            (b, r, d of all layers) float16.
        """
        layers = []
        for features in self.run(torch.stack(inputs)):
            cells = [adaptive_avg_pool2d(features.float(), size).flatten(2) for size in grid_sizes]
            rows = torch.cat(cells, dim=2).transpose(1, 2)  # (b, r, d)
            layers.append(normalize(rows, dim=2) if is_normalized else rows)
        features = to_cpu([torch.cat(layers, dim=2).half()])[0]
        return features.numpy()
