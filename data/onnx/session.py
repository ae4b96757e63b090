"""Sessions of ONNX Runtime on a CPU, and graphs in its own format, which a process maps instead of reading them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

# Read while onnxruntime is imported: without it, the library writes an id of the device and a queue of events to the
# home folder, and sends them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

RUNTIME_VERSION: str = onnxruntime.__version__
OPSET = 17  # of exported graphs
PROVIDERS = ["CPUExecutionProvider"]
ERRORS_ONLY = 3  # severity of the log: a warning names each initializer that a graph does not use


def open_session(
    graph: bytes, initializers: Mapping[str, np.ndarray] | None = None, num_threads: int = 1
) -> onnxruntime.InferenceSession:
    """Open a graph. The session may be used by several threads at once.

    Args:
        graph: ONNX model.
        initializers: Values of the initializers that the graph does not contain, by name.
        num_threads: Threads of one run.

    Raises:
        ValueError: ONNX Runtime cannot read the graph.
    """
    return _open(graph, _make_options(num_threads, initializers))


def write_optimized_graph(path: Path, graph: bytes, initializers: Mapping[str, np.ndarray]) -> None:
    """Write a graph with all initializers in the format of `open_mapped_session`.

    The optimizations are those of every CPU.

    Args:
        path: File to write.
        graph: ONNX model.
        initializers: Values of the initializers that the graph does not contain, by name.

    Raises:
        ValueError: ONNX Runtime cannot read the graph.
    """
    options = _make_options(1, initializers)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    _open(graph, options)


def open_mapped_session(path: Path, num_threads: int = 1, is_resident: bool = False) -> onnxruntime.InferenceSession:
    """Open a graph that `write_optimized_graph` wrote with the installed version of ONNX Runtime.

    Initializers stay in the mapped file, so that a process opens it within milliseconds and shares its memory. The
    file must be known to be intact: ONNX Runtime does not check it.

    Args:
        path: The file; it must not be changed while the session exists.
        num_threads: Threads of one run.
        is_resident: Whether to arrange the weights for fast runs, in memory of the process. It takes as long as some
            runs, so it pays for a service and not for one query.

    Raises:
        ValueError: ONNX Runtime cannot read the file.
    """
    options = _make_options(num_threads, None)
    for name in ("use_memory_mapped_ort_model", "use_ort_model_bytes_directly", "use_ort_model_bytes_for_initializers"):
        options.add_session_config_entry(f"session.{name}", "1")
    if not is_resident:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return _open(str(path), options)


def _make_options(num_threads: int, initializers: Mapping[str, np.ndarray] | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = ERRORS_ONLY
    if initializers:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in initializers.values()]
        options.add_external_initializers(list(initializers), values)
    return options


def _open(graph: bytes | str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(graph, options, providers=PROVIDERS)
    except Exception as error:  # ONNX Runtime raises types of its own that it does not document
        raise ValueError(f"ONNX Runtime cannot open the graph: {str(error).splitlines()[0][:300]}") from error
