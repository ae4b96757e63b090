"""ONNX graphs on a CPU: sessions of ONNX Runtime, and a cache of graphs; knows nothing of images, texts or models."""

from data.onnx.cache import MAX_GRAPH_BYTES, CachedGraph
from data.onnx.session import OPSET, RUNTIME_VERSION, open_mapped_session, open_session, write_optimized_graph

__all__ = [
    "MAX_GRAPH_BYTES",
    "OPSET",
    "RUNTIME_VERSION",
    "CachedGraph",
    "open_mapped_session",
    "open_session",
    "write_optimized_graph",
]
