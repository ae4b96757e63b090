"""Load the backbone of a grid extractor into what runs it: ONNX Runtime on a CPU, and torch on a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.io import sha256_file
from extractors.config import GridConfig
from extractors.nn.backbone_weights import find_weights_file
from extractors.nn.image_fit import BackboneInfo
from extractors.nn.inference import choose_dtype, parse_device
from extractors.nn.onnx_graph import Graph, GraphCache, OnnxBackbone, export_graph

if TYPE_CHECKING:
    from extractors.nn.backbone import Backbone

log = logging.getLogger(__name__)


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
        self._backbone = backbone.to(config.device).to(memory_format=torch.channels_last)
        self._backbone.model.to(self.dtype)

    def run(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of inputs (b, height, width, 3) uint8 on the device: per layer (b, d, h, w)."""
        return self._backbone(inputs)


def load_runtime(config: GridConfig) -> OnnxBackbone | TorchBackbone:
    """Load the backbone of a configuration.

    On a CPU the graph comes from the cache folder if it is there; timm is not imported then.

    Raises:
        ValueError: The model, a layer or the size of the input is not possible, or the weights do not fit.
        FileNotFoundError: The weights do not exist.
    """
    on_cpu = parse_device(config.device).type == "cpu"
    file = find_weights_file(config)
    cache = GraphCache(config, sha256_file(file)) if on_cpu and file is not None and file.is_file() else None
    if cache is not None and (graph := cache.read()) is not None:
        return OnnxBackbone(graph)
    backbone, info = _load_backbone(config, file)
    if not on_cpu:
        return TorchBackbone(backbone, info, config)
    try:
        return OnnxBackbone(_export_cached(cache or GraphCache(config, info.weights_sha256), backbone, info))
    except ValueError as error:
        log.warning(f"{config.model} cannot be exported to ONNX ({error}); it runs in torch, which is slower.")
        return TorchBackbone(backbone, info, config)


def _load_backbone(config: GridConfig, file: Path | None) -> tuple[Backbone, BackboneInfo]:
    from extractors.nn.backbone import load_backbone  # lazy: timm takes seconds to import, and a cached graph is enough

    return load_backbone(config, file)


def _export_cached(cache: GraphCache, backbone: Backbone, info: BackboneInfo) -> Graph:
    """Return the graph in the cache folder, or export it and write it there where that is possible."""
    graph = cache.read()
    if graph is None:
        graph = export_graph(backbone, info)
        try:
            cache.write(graph)
        except OSError as error:
            log.warning(
                f"The graph of the backbone cannot be kept in {cache.path.parent} ({error.strerror}), so each process "
                "exports it again, which takes seconds. Set XDG_CACHE_HOME to a folder that can be written."
            )
    return graph
