"""The stages of a plan: plain functions of a config, inputs and a workspace that return what they wrote.

Each stage may be called again: it finds finished output by name and does not repeat the work. Stages know nothing of
their order and of Prefect; `pipeline.runs` calls them.
"""

from pipeline.stages.dataset import (
    find_training_problem,
    held_out_ids,
    load_plan_dataset,
    read_plan_dataset,
    splits_with_captions,
)
from pipeline.stages.embed import load_trained_model
from pipeline.stages.evaluate import read_or_compute_ranks
from pipeline.stages.extract import select_splits
from pipeline.stages.index import find_served_version
from pipeline.stages.results import Features, Vectors, VectorStores
from pipeline.stages.tune import QUERY_KINDS, TuningAdvice, advise_index_settings

__all__ = [
    "QUERY_KINDS",
    "Features",
    "TuningAdvice",
    "VectorStores",
    "Vectors",
    "advise_index_settings",
    "find_served_version",
    "find_training_problem",
    "held_out_ids",
    "load_plan_dataset",
    "load_trained_model",
    "read_or_compute_ranks",
    "read_plan_dataset",
    "select_splits",
    "splits_with_captions",
]
