"""The stages of a plan: plain functions of a config, inputs and a workspace that return what they wrote.

Each stage may be called again: it finds finished output by name and does not repeat the work. Stages know nothing of
their order and of Prefect; `pipeline.runs` calls them.
"""

from pipeline.stages.dataset import load_plan_dataset, splits_with_captions
from pipeline.stages.index import find_served_version, publish_full_index, publish_index_update
from pipeline.stages.origin import Origin, read_origin
from pipeline.stages.results import Features, MapFn, Vectors, VectorStores

__all__ = [
    "Features",
    "MapFn",
    "Origin",
    "VectorStores",
    "Vectors",
    "find_served_version",
    "load_plan_dataset",
    "publish_full_index",
    "publish_index_update",
    "read_origin",
    "splits_with_captions",
]
