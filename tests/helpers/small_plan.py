"""A plan file for a pipeline run of a few seconds over the demo dataset, and a shortcut to its features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.plans.plan import Plan
    from pipeline.stages.results import Features

DEMO_EXTRACTORS = """
[regions]
model = "demo"
weights = "demo"
min_score = 0.3

[text]
model = "minilm"
"""
TINY_TRAINING = """
[train]
epochs = 1

[train.model]
width = 32
feedforward_dim = 64
embed_dim = 32
"""
SMALL = """
workspace = "{workspace}"
images_per_shard = 10
captions_per_shard = 50
workers = {workers}

[demo]
images = 36
splits = {{train = 24, val = 6, test = 6}}

[regions]
model = "demo"
weights = "demo"
min_score = 0.05

[text]
model = "minilm"

[train]
epochs = 3
images_per_batch = 8

[train.model]
width = 32
feedforward_dim = 64
embed_dim = 32

[index]
shards = 2

[report]
queries = ["two dogs are running along the street"]
hits_per_query = 3
num_images = 2
"""


def small_plan(folder: Path, workspace: str = "run", workers: int = 1) -> Path:
    """A plan file for a run of a few seconds."""
    path = folder / "small.toml"
    path.write_text(SMALL.format(workspace=folder / workspace, workers=workers))
    return path


def extract_features(plan: Plan) -> Features:
    """Load the dataset of a plan and extract its features in this process."""
    from pipeline.runs.runner import PipelineRunner

    runner = PipelineRunner(plan)
    return runner.extract(runner.load_dataset())
