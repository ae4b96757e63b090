"""Runs of a plan: a plan goes in, folders and files of the workspace come out. Knows nothing of Prefect.

`PipelineRunner` runs the stages and writes the stage log. The other modules estimate the work of a run, list invalid
records, train under torchrun, and apply a stage to its jobs in worker processes.
"""

from pipeline.runs.dry_run import ALL_STAGES, StagePreview, preview_stages
from pipeline.runs.estimate import Estimate, estimate_extraction, estimate_undrawn_demo
from pipeline.runs.existing import read_finished, read_vectors
from pipeline.runs.invalid_records import count_truncated_captions, count_unknown_captions, write_invalid_records
from pipeline.runs.notes import (
    describe_chance,
    describe_missing_captions,
    describe_splits,
    describe_training,
)
from pipeline.runs.runner import Finished, PipelineRunner
from pipeline.runs.stage_log import StageEntry
from pipeline.runs.torchrun_training import train_together, train_with_torchrun

__all__ = [
    "ALL_STAGES",
    "Estimate",
    "Finished",
    "PipelineRunner",
    "StageEntry",
    "StagePreview",
    "count_truncated_captions",
    "count_unknown_captions",
    "describe_chance",
    "describe_missing_captions",
    "describe_splits",
    "describe_training",
    "estimate_extraction",
    "estimate_undrawn_demo",
    "preview_stages",
    "read_finished",
    "read_vectors",
    "train_together",
    "train_with_torchrun",
    "write_invalid_records",
]
