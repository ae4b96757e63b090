"""Runs of a plan: a plan goes in, folders and files of the workspace come out. Knows nothing of Prefect.

`PipelineRunner` runs the stages and writes the stage log. The other modules estimate the work of a run, list invalid
records, train under torchrun, and apply a stage to its jobs in worker processes.
"""

from pipeline.runs.estimate import Estimate, estimate_extraction, estimate_undrawn_demo
from pipeline.runs.invalid_records import count_truncated_captions, write_invalid_records
from pipeline.runs.runner import Finished, OnEpoch, PipelineRunner
from pipeline.runs.stage_log import StageEntry
from pipeline.runs.torchrun_training import train_together, train_with_torchrun
from pipeline.runs.workers import make_process_map, open_pool, uses_gpu

__all__ = [
    "Estimate",
    "Finished",
    "OnEpoch",
    "PipelineRunner",
    "StageEntry",
    "count_truncated_captions",
    "estimate_extraction",
    "estimate_undrawn_demo",
    "make_process_map",
    "open_pool",
    "train_together",
    "train_with_torchrun",
    "uses_gpu",
    "write_invalid_records",
]
