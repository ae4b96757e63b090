"""Backbones that ONNX Runtime runs on a CPU, and their graphs in the cache folder; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data.onnx import CachedGraph, open_session
from extractors.config import SUFFIXES, GridConfig
from extractors.torch_free.image_fit import BackboneInfo

VERSION = 1  # raise it when the export changes: the name of a cached graph contains it
INPUT = "pixels"
MIN_LENGTH = 1e-12  # of a row before it is scaled, as in `torch.nn.functional.normalize`


@dataclass(frozen=True)
class Graph:
    """An exported backbone."""

    content: bytes
    """ONNX model: (1, height, width, 3) uint8 to the map of each layer."""
    info: BackboneInfo
    """The backbone that was exported."""


class GraphCache:
    """The place in the cache folder of the graph of a configuration.

    Args:
        config: Settings of the extractor.
        weights_sha256: SHA-256 of the weights, or of their file.
    """

    def __init__(self, config: GridConfig, weights_sha256: str) -> None:
        settings = config.model_dump(mode="json", include={"model", "weights", "fit", "image_size"})
        if config.weights.endswith(SUFFIXES):
            del settings["weights"]  # the path of a file determines nothing
        libraries = {name: version(name) for name in ("timm", "torch", "onnx")}
        key = {"version": VERSION, **settings, "layers": list(config.layers), "libraries": libraries}
        self._file = CachedGraph(config.model, key | {"weights_sha256": weights_sha256}, ".onnx")
        self.path = self._file.path

    def read(self) -> Graph | None:
        """Read the graph; None if it is missing, truncated, or not the one of this configuration."""
        entry = self._file.find()
        try:
            return None if entry is None else Graph(self.path.read_bytes(), BackboneInfo.model_validate(entry.info))
        except (OSError, ValueError):
            return None

    def write(self, graph: Graph) -> None:
        """Write a graph.

        Raises:
            OSError: The cache folder cannot be written.
        """

        def write_content(path: Path) -> None:
            path.write_bytes(graph.content)

        self._file.write(write_content, graph.info.model_dump(mode="json"))


class OnnxBackbone:
    """A graph in ONNX Runtime, on one thread and one image at a time.

    So the features of an image depend neither on other images nor on the number of processes. Safe to use from several
    threads.
    """

    name = "onnxruntime"
    dtype_name = "float32"

    def __init__(self, graph: Graph) -> None:
        self.info = graph.info
        self._session = open_session(graph.content)

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        """Compute the maps of an image (height, width, 3) uint8: per layer (d, h, w) float32."""
        maps: list[np.ndarray] = self._session.run(None, {INPUT: image[None]})
        return [features[0] for features in maps]

    def compute_rows(self, image: np.ndarray, grid_sizes: Sequence[int], is_normalized: bool) -> np.ndarray:
        """Compute the rows of an image.

        Args:
            image: (height, width, 3) uint8.
            grid_sizes: Sides of the grids whose cells are averaged.
            is_normalized: Whether the features of each layer have unit length in each row.

        Returns:
            (r, d of all layers) float16, grid by grid.
        """
        layers = []
        for features in self.run(image):
            depth, height, width = features.shape
            rows = _cell_weights(height, width, tuple(grid_sizes)) @ features.reshape(depth, -1).T  # (r, d)
            if is_normalized:
                rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), MIN_LENGTH)
            layers.append(rows)
        return np.concatenate(layers, axis=1).astype(np.float16)


@lru_cache(maxsize=64)
def _cell_weights(height: int, width: int, grid_sizes: tuple[int, ...]) -> np.ndarray:
    """Return the weight of each position of a map in the mean of each cell: (r, height * width) float32.

    Cells are those of `torch.nn.functional.adaptive_avg_pool2d`; neighbors share a position where a side is no
    multiple of the number of cells.
    """
    weights = []
    for size in grid_sizes:
        rows, columns = (_share(length, size) for length in (height, width))  # (size, height), (size, width)
        weights.append(np.einsum("ih,jw->ijhw", rows, columns).reshape(size * size, -1))
    return np.concatenate(weights).astype(np.float32)


def _share(length: int, num_cells: int) -> np.ndarray:
    """Return the weight of each of `length` positions in the mean of each cell: (num_cells, length)."""
    starts = np.arange(num_cells) * length // num_cells
    ends = -(-np.arange(1, num_cells + 1) * length // num_cells)
    is_inside = (np.arange(length) >= starts[:, None]) & (np.arange(length) < ends[:, None])
    return is_inside / is_inside.sum(axis=1, keepdims=True)
