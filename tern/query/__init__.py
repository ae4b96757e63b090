"""The query side of a model: token ids and rows of regions go in, vectors come out, in ONNX Runtime and without torch.

`tern.model.export_query_side` writes its files.
"""

from tern.query.calibration import (
    Calibration,
    CalibrationQueries,
    read_calibration,
    select_by_hash,
    write_calibration,
)
from tern.query.record import (
    TEXT_SOURCE,
    GraphRecord,
    QueryRecord,
    TensorRef,
    TextModelRecord,
    has_query_side,
    read_query_record,
    write_query_record,
)
from tern.query.side import ImageRegions, QuerySide, list_outputs, read_outputs, run_graph
from tern.query.weights import read_tensors

__all__ = [
    "TEXT_SOURCE",
    "Calibration",
    "CalibrationQueries",
    "GraphRecord",
    "ImageRegions",
    "QueryRecord",
    "QuerySide",
    "TensorRef",
    "TextModelRecord",
    "has_query_side",
    "list_outputs",
    "read_calibration",
    "read_outputs",
    "read_query_record",
    "read_tensors",
    "run_graph",
    "select_by_hash",
    "write_calibration",
    "write_query_record",
]
