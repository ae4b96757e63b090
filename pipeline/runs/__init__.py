"""Sub-package `pipeline.runs`."""

from pipeline.runs.estimate import Estimate, estimate_extraction, estimate_undrawn_demo, select_splits
from pipeline.runs.runner import PipelineRunner
from pipeline.runs.torchrun_training import train_with_torchrun
from pipeline.runs.workers import make_process_map, open_pool, uses_gpu

__all__ = [
    "Estimate",
    "PipelineRunner",
    "estimate_extraction",
    "estimate_undrawn_demo",
    "make_process_map",
    "open_pool",
    "select_splits",
    "train_with_torchrun",
    "uses_gpu",
]
