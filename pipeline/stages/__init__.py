"""Sub-package `pipeline.stages`."""

from pipeline.stages.index import find_served_version, publish_full_index, publish_index_update
from pipeline.stages.results import MapFn, VectorStores

__all__ = [
    "MapFn",
    "VectorStores",
    "find_served_version",
    "publish_full_index",
    "publish_index_update",
]
