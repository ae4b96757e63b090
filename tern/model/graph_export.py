"""Export of a network to ONNX without its weights, which the graph takes from files of weights."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors import safe_open
from torch import Tensor, nn

from data.onnx import OPSET
from tern.query import TensorRef

MIN_TENSOR_BYTES = 1024  # smaller tensors stay in the graph


@dataclass(frozen=True)
class GraphSignature:
    """Inputs and outputs of a graph: the name of each, with the names of its dimensions of any size."""

    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]


def index_tensors(paths: Mapping[str, Path]) -> dict[str, TensorRef]:
    """Map the SHA-256 of the values of each tensor in some files, in float32, to its place."""
    refs: dict[str, TensorRef] = {}
    for file, path in paths.items():
        with safe_open(path, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # it is no mapping
                refs.setdefault(_hash_values(tensors.get_tensor(name)), TensorRef(file=file, name=name))
    return refs


def _hash_values(array: np.ndarray) -> str:
    values = array.astype(np.float32) if array.dtype == np.float16 else array
    return hashlib.sha256(f"{values.dtype} {values.shape} ".encode() + values.tobytes()).hexdigest()


def export_graph(
    module: nn.Module, sample: dict[str, Tensor], signature: GraphSignature, known: Mapping[str, TensorRef]
) -> tuple[bytes, dict[str, TensorRef]]:
    """Export a module to ONNX. Returns the graph without the tensors that files have, and their places."""
    buffer = io.BytesIO()
    dims = {**signature.inputs, **signature.outputs}
    axes = {name: dict(enumerate(names)) for name, names in dims.items()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants in the trace; the comparison decides
        try:
            torch.onnx.export(
                module,
                tuple(sample[name] for name in signature.inputs),
                buffer,  # type: ignore[arg-type]  # the legacy exporter takes it
                dynamo=False,  # the other exporter needs onnxscript
                opset_version=OPSET,
                do_constant_folding=False,  # weights keep the values that their files have
                input_names=list(signature.inputs),
                output_names=list(signature.outputs),
                dynamic_axes=axes,
            )
        except Exception as error:  # the exporter raises any type for what it does not know
            raise ValueError(f"the network cannot be exported ({error})") from error
    graph = onnx.load_from_string(buffer.getvalue())
    tensors = _take_out_tensors(graph, known)
    _shorten_names(graph, set(tensors) | set(dims))
    return graph.SerializeToString(deterministic=True), tensors


def _take_out_tensors(graph: Any, known: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Take the values of initializers that files have out of a graph, in place. Returns their places by name."""
    tensors = {}
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        ref = known.get(_hash_values(values)) if values.nbytes >= MIN_TENSOR_BYTES else None
        if ref is None:
            continue
        tensors[tensor.name] = ref
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "weights"), ("offset", "0"), ("length", str(values.nbytes))):
            tensor.external_data.add(key=key, value=value)
    return tensors


def _shorten_names(graph: Any, kept: set[str]) -> None:
    """Replace the names of values and nodes, which are most of the size of a graph without weights, in place."""
    names: dict[str, str] = {}

    def shorten(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"v{len(names)}")

    if any(attribute.HasField("g") for node in graph.graph.node for attribute in node.attribute):
        return  # a subgraph uses names of the graph around it
    graph.graph.ClearField("value_info")
    for tensor in graph.graph.initializer:
        tensor.name = shorten(tensor.name)
    for node in graph.graph.node:
        node.name, node.doc_string = "", ""
        node.input[:] = [shorten(name) for name in node.input]
        node.output[:] = [shorten(name) for name in node.output]
