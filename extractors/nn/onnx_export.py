"""Export of the backbone of a grid extractor to ONNX, and the comparison of the graph with torch."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from data.onnx import MAX_GRAPH_BYTES, OPSET
from extractors.torch_free import INPUT, BackboneInfo, Graph, OnnxBackbone

MAX_RELATIVE_ERROR = 1e-3  # of an exported map, to its largest value; float32 reaches about 1e-5


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
        for found, expected in zip(graph.run(inputs[0].numpy()), backbone(inputs), strict=True):
            error = float((torch.from_numpy(found) - expected[0]).abs().max() / expected.abs().max().clamp(min=1e-6))
            if not error <= MAX_RELATIVE_ERROR:
                raise ValueError(f"the exported graph differs by {error:.2g} from torch on an input of {shape}")


def _draw_input(shape: tuple[int, int]) -> Tensor:
    """Draw an image (1, height, width, 3) uint8 from a fixed seed."""
    return torch.randint(0, 256, (1, *shape, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
