"""Load the backbone of a grid extractor into what runs it: ONNX Runtime on a CPU, and torch on a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from data.io import sha256_file
from extractors.config import GridConfig
from extractors.torch_free import Graph, GraphCache, OnnxBackbone, find_weights_file, is_cpu

if TYPE_CHECKING:
    from extractors.nn.torch_backbone import TorchBackbone  # lazy: torch takes seconds to import

log = logging.getLogger(__name__)


def load_grid_backbone(config: GridConfig) -> OnnxBackbone | TorchBackbone:
    """Load the backbone of a configuration.

    On a CPU the graph comes from the cache folder if it is there; neither torch nor timm is imported then.

    Raises:
        ValueError: The model, a layer or the size of the input is not possible, or the weights do not fit.
        FileNotFoundError: The weights do not exist.
    """
    on_cpu, file = is_cpu(config.device), find_weights_file(config)
    cache = GraphCache(config, sha256_file(file)) if on_cpu and file is not None and file.is_file() else None
    if cache is not None and (graph := cache.read()) is not None:
        return OnnxBackbone(graph)
    return _load_from_weights(config, file, on_cpu, cache)


def _load_from_weights(
    config: GridConfig, file: Path | None, on_cpu: bool, cache: GraphCache | None
) -> OnnxBackbone | TorchBackbone:
    from extractors.nn.backbone import load_backbone  # lazy: torch takes seconds to import
    from extractors.nn.inference import parse_device  # lazy: torch takes seconds to import
    from extractors.nn.onnx_export import export_graph  # lazy: torch takes seconds to import
    from extractors.nn.torch_backbone import TorchBackbone  # lazy: torch takes seconds to import

    parse_device(config.device)
    backbone, info = load_backbone(config, file)
    if not on_cpu:
        return TorchBackbone(backbone, info, config)
    cache = cache or GraphCache(config, info.weights_sha256)
    graph = cache.read()
    try:
        if graph is None:
            graph = export_graph(backbone, info)
            _write_graph(cache, graph)
        return OnnxBackbone(graph)
    except ValueError as error:
        log.warning(f"{config.model} cannot be exported to ONNX ({error}); it runs in torch, which is slower.")
        return TorchBackbone(backbone, info, config)


def _write_graph(cache: GraphCache, graph: Graph) -> None:
    """Write a graph into the cache folder, where that is possible."""
    try:
        cache.write(graph)
    except OSError as error:
        log.warning(
            f"The graph of the backbone cannot be kept in {cache.path.parent} ({error.strerror}), so each process "
            "exports it again, which takes seconds. Set XDG_CACHE_HOME to a folder that can be written."
        )
