"""Print an evaluation: metrics of the splits, and of groups of their queries."""

from typing import TYPE_CHECKING

from pipeline.cli.dataset_notes import print_notes
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from pipeline.plans import Plan
    from pipeline.stages import Vectors
    from tern.evaluation import Evaluation


def print_metrics(evaluation: "Evaluation", vectors: "Vectors") -> None:
    """Print the metrics of each split, the level of chance, and notes about captions and training."""
    from pipeline.runs import describe_chance, describe_missing_captions, describe_training
    from tern.card import read_model_card
    from tern.evaluation import DIRECTIONS

    print_notes(describe_missing_captions(vectors.features.dataset, evaluation))
    if not evaluation.splits:
        return
    echo("split   direction      R@1    R@5   R@10  median   mean    rsum")
    for split, split_evaluation in evaluation.splits.items():
        metrics = split_evaluation.metrics
        for direction, label in ((metrics.t2i, DIRECTIONS["t2i"]), (metrics.i2t, DIRECTIONS["i2t"])):
            recalls = f"{direction.r1:5.1f}  {direction.r5:5.1f}  {direction.r10:5.1f}"
            ranks = f"{direction.medr:6.0f}  {direction.meanr:5.1f}"
            echo(f"{split:<7} {label}  {recalls}  {ranks}  {metrics.rsum:6.1f}")
        for key, value in split_evaluation.flat().items():
            if key.startswith("fold_") or "_ndcg_" in key:
                echo(f"{split:<7} {key:<24} {value:8.3f}")
    for note in describe_chance(evaluation):
        echo(note)
    print_notes(describe_training(read_model_card(vectors.model)))


def print_groups(plan: "Plan", vectors: "Vectors", splits: list[str]) -> None:
    """Print the metrics of the groups of queries of some splits."""
    from pipeline.runs.quality import measure_groups
    from pipeline.stages import read_or_compute_ranks
    from pipeline.workspace import Workspace
    from tern.evaluation import DIRECTIONS, MIN_QUERIES

    dataset, workspace = vectors.features.dataset, Workspace(plan.workspace)
    echo("split   direction      queries  R@1  (95 % interval)   R@10  (95 % interval)    MRR  group")
    for split in splits:
        ranks = read_or_compute_ranks(vectors, dataset, workspace, split, plan.evaluate)
        for row in measure_groups(plan, dataset, split, ranks):
            metrics = row.metrics
            recalls = "  ".join(f"{r.value:5.1f} ({r.low:5.1f} to {r.high:5.1f})" for r in (metrics.r1, metrics.r10))
            name = f"{row.kind}: {row.name}" if row.kind else row.name
            small = f" (fewer than {MIN_QUERIES} queries)" if metrics.is_small else ""
            head = f"{split:<7} {DIRECTIONS[row.direction]}  {metrics.num_queries:>7,}"
            echo(f"{head}  {recalls}  {metrics.mrr:5.3f}  {name}{small}")
