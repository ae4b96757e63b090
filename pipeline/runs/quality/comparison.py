"""Compare the ranks of two evaluations of one split, of two models or of two workspaces."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.datasets import Dataset
from pipeline.plans.plan import Plan
from pipeline.runs.existing import read_vectors
from pipeline.stages.evaluate import METRICS, find_ranks_file, read_or_compute_ranks
from pipeline.workspace import Workspace
from tern.evaluation import (
    DIRECTIONS,
    MetricDifference,
    RankComparison,
    SplitRanks,
    compare_metrics,
    compare_ranks,
    read_ranks,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitComparison:
    """An evaluation of a split compared with another one.

    Attributes:
        name: name of the other evaluation: its model or file
        ranks: ranks of this evaluation
        other_ranks: ranks of the other one
        directions: the comparison by direction
        metrics: every metric of both, by name
    """

    name: str
    ranks: SplitRanks
    other_ranks: SplitRanks
    directions: dict[str, RankComparison]
    metrics: dict[str, MetricDifference]


def compare_split(ranks: SplitRanks, other: tuple[str, SplitRanks], dataset: Dataset, k: int) -> SplitComparison:
    """Compare two evaluations of a split: every metric, and recall@k in both directions.

    Args:
        ranks: Ranks of this evaluation.
        other: Name and ranks of the other one, as `read_other_ranks` returns them.
        dataset: Dataset of this evaluation.
        k: Number of results within which a query must succeed.

    Raises:
        ValueError: The two have no query in common.
    """
    name, other_ranks = other
    image_ids = {image_id: image_id for image_id in ranks.i2t} | dataset.image_id_by_caption_id
    directions = {
        direction: compare_ranks(ranks.get_direction(direction), other_ranks.get_direction(direction), image_ids, k)
        for direction in DIRECTIONS
    }
    return SplitComparison(name, ranks, other_ranks, directions, compare_metrics(ranks, other_ranks, image_ids))


def read_other_ranks(
    plan: Plan, against: str, split: str, on_message: Callable[[str], None] = log.info
) -> tuple[str, SplitRanks]:
    """Read the ranks of the evaluation to compare with; nothing is written.

    Args:
        plan: Plan of this evaluation.
        against: Path of a file `ranks-*.json` or `metrics-*.json` of any workspace, or name of a trained model of the
            workspace of the plan.
        split: Split to compare.
        on_message: Called with a line of text about what is read.

    Returns:
        The name of the other evaluation, and its ranks.

    Raises:
        FileNotFoundError: There is no such file or model, or no ranks of it.
        ValueError: The file does not hold ranks, or none of the split.
    """
    path = Path(against)
    if not path.is_file():
        if path.suffix == ".json":
            raise FileNotFoundError(
                f"{path} does not exist. Pass a file `ranks-*.json`, or the name of a trained model."
            )
        vectors = read_vectors(plan, against, on_message)
        inputs = vectors, vectors.features.dataset, Workspace(plan.workspace)
        return against, read_or_compute_ranks(*inputs, split, plan.evaluate)
    if path.name.startswith(METRICS):
        path = find_ranks_file(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} with the ranks of {Path(against).name} does not exist. Run `tern evaluate` in its workspace."
            )
    splits = read_ranks(path).splits
    if split not in splits:
        raise ValueError(f"{path} has no ranks of split {split!r}; it has {', '.join(splits) or 'none'}. Pass --split.")
    return path.name, splits[split]
