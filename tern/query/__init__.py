"""The query side of a model: token ids and rows of regions go in, vectors come out, in ONNX Runtime and without torch.

`tern.model.export_query_side` writes its files.
"""

from tern.query.record import (
    CAPTIONS_GRAPH,
    IMAGES_GRAPH,
    QUERY_FILES,
    QUERY_RECORD,
    TOKENIZER,
    GraphRecord,
    QueryRecord,
    TensorRef,
    TextModelRecord,
    has_query_side,
    read_query_record,
    write_query_record,
)
from tern.query.side import ImageRegions, QuerySide

__all__ = [
    "CAPTIONS_GRAPH",
    "IMAGES_GRAPH",
    "QUERY_FILES",
    "QUERY_RECORD",
    "TOKENIZER",
    "GraphRecord",
    "ImageRegions",
    "QueryRecord",
    "QuerySide",
    "TensorRef",
    "TextModelRecord",
    "has_query_side",
    "read_query_record",
    "write_query_record",
]
