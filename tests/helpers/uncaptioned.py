"""A copy of a finished workspace whose dataset has few captions or none, and the stages after the model."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.datasets import Dataset
from data.store import Store
from pipeline.plans.plan import Plan
from pipeline.runs.runner import Finished, PipelineRunner
from tern.query import Calibration, CalibrationQueries


def copy_without_index(finished: Finished, root: Path) -> tuple[Plan, Path]:
    """Copy the workspace of a run to `root`, without its index. Returns the plan, and the folder of the model."""
    shutil.copytree(finished.plan.workspace, root, ignore=shutil.ignore_patterns("index", "*.html"))
    return finished.plan.model_copy(update={"workspace": root}), root / "models" / finished.model.name


def keep_captions(finished: Finished, num_captions: int) -> Dataset:
    """Return the dataset of a run with its first captions only; they are captions of `train`."""
    dataset = finished.features.input_dataset
    return replace(dataset, captions=dataset.captions[:num_captions])


def run_stages(plan: Plan, dataset: Dataset, model: Path, is_update: bool = False) -> Finished:
    """Run the stages of a dataset with a given model: extraction, embedding, a build or an update, evaluation."""
    runner = PipelineRunner(plan)
    vectors = runner.embed(runner.extract(dataset), model)
    index = runner.update_index(vectors) if is_update else runner.publish_index(vectors)
    return Finished(plan, vectors, runner.evaluate(vectors), index, runner.list_finished_stages())


def make_calibration(finished: Finished) -> Calibration:
    """Make a calibration of 40 captions and 20 images of the training split of a run."""

    def read(folder: Path, ids: list[str]) -> CalibrationQueries:
        vectors, zeros = Store(folder).read("features", ids).astype(np.float32), np.zeros(len(ids), np.float32)
        return CalibrationQueries(tuple(ids), vectors, zeros, zeros - 1)

    part = finished.features.dataset.select_split("train")
    captions = read(finished.vectors.captions, [caption.id for caption in part.captions][:40])
    images = read(finished.vectors.images, [image.id for image in part.images][:20])
    return Calibration("train", len(part.images), len(part.captions), captions, images)
