"""Graphs of backbones that ONNX Runtime runs on a CPU: exported once, verified, and kept in a cache folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from data.io import atomic_write, digest, read_json, write_json
from data.settings import find_cache_folder
from extractors.config import GridConfig
from extractors.nn.image_fit import BackboneInfo
from extractors.nn.state_dict import SUFFIXES

# Read while onnxruntime is imported: without it, the library writes an id of the device and a queue of events to the
# home folder, and sends them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

VERSION = 1  # raise it when the export changes: the name of a cached graph contains it
OPSET = 17
MAX_GRAPH_BYTES = 2**31 - 1  # of a protocol buffer
MAX_RELATIVE_ERROR = 1e-3  # of an exported map, to its largest value; float32 reaches about 1e-5
FOLDER = "onnx"
INPUT = "pixels"


class CacheEntry(BaseModel):
    """Sidecar file of a cached graph: written last, so that a graph without it does not count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: dict[str, Any]
    """Everything that determines the graph."""
    sha256: str
    """SHA-256 of the file of the graph."""
    info: BackboneInfo
    """The backbone that was exported."""


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
        self._key = {"version": VERSION, **settings, "layers": list(config.layers), "libraries": libraries}
        self._key["weights_sha256"] = weights_sha256
        name = "".join(c if c.isalnum() else "-" for c in config.model)
        self.path = find_cache_folder() / FOLDER / f"{name}-{digest(self._key)}.onnx"

    def read(self) -> Graph | None:
        """Read the graph; None if it is missing, truncated, or not the one of this configuration."""
        try:
            entry = CacheEntry.model_validate(read_json(self.path.with_suffix(".json")))
            if entry.key != self._key or self.path.stat().st_size > MAX_GRAPH_BYTES:
                return None
            content = self.path.read_bytes()
        except (OSError, ValueError, ValidationError):
            return None
        return Graph(content, entry.info) if hashlib.sha256(content).hexdigest() == entry.sha256 else None

    def write(self, graph: Graph) -> None:
        """Write a graph.

        Raises:
            OSError: The cache folder cannot be written.
        """
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(graph.content)
        entry = CacheEntry(key=self._key, sha256=hashlib.sha256(graph.content).hexdigest(), info=graph.info)
        write_json(self.path.with_suffix(".json"), entry.model_dump(mode="json"))


class OnnxBackbone:
    """A graph in ONNX Runtime, on one thread and one image at a time.

    So the features of an image depend neither on other images nor on the number of processes. Safe to use from several
    threads.
    """

    name = "onnxruntime"
    dtype = torch.float32

    def __init__(self, graph: Graph) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.info = graph.info
        self._session = onnxruntime.InferenceSession(graph.content, options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of inputs (b, height, width, 3) uint8: per layer (b, d, h, w) float32."""
        rows = [self._session.run(None, {INPUT: image[None]}) for image in inputs.numpy()]
        return tuple(torch.from_numpy(np.concatenate(maps)) for maps in zip(*rows, strict=True))


def export_graph(backbone: nn.Module, info: BackboneInfo) -> Graph:
    """Export a backbone in float32 to ONNX, and compare the result with torch.

    Raises:
        ValueError: It cannot be exported, or the graph computes other maps.
    """
    side, num_maps = info.fit.image_size, len(info.channels)
    shapes = [(side, side)] if info.fit.is_square else [(side, side), (side, 2 * side), (3 * side, side)]
    if sum(value.nbytes for value in backbone.state_dict().values()) > MAX_GRAPH_BYTES:
        raise ValueError("its weights exceed 2 GiB")
    try:
        with tempfile.TemporaryDirectory(prefix="tern-onnx-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of constants in the trace; the comparison below decides
            file = Path(folder) / "graph.onnx"
            torch.onnx.export(
                backbone,
                (_draw_input(shapes[0]),),
                file,
                dynamo=False,  # the other exporter needs onnxscript
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[f"map{i}" for i in range(num_maps)],
                dynamic_axes=None if info.fit.is_square else {INPUT: {1: "height", 2: "width"}},
            )
            graph = Graph(file.read_bytes(), info)
        _compare(OnnxBackbone(graph), backbone, shapes)
    except Exception as error:  # the exporter and ONNX Runtime raise any type for what they do not know
        raise ValueError(str(error)) from error
    return graph


@torch.inference_mode()
def _compare(graph: OnnxBackbone, backbone: nn.Module, shapes: list[tuple[int, int]]) -> None:
    """Raise ValueError if a graph computes other maps than the backbone."""
    for shape in shapes:
        inputs = _draw_input(shape)
        for found, expected in zip(graph.run(inputs), backbone(inputs), strict=True):
            error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
            if not error <= MAX_RELATIVE_ERROR:
                raise ValueError(f"the exported graph differs by {error:.2g} from torch on an input of {shape}")


def _draw_input(shape: tuple[int, int]) -> Tensor:
    """Draw an image (1, height, width, 3) uint8 from a fixed seed."""
    return torch.randint(0, 256, (1, *shape, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
