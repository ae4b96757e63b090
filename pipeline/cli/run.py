"""Commands that run the stages of a plan: `tern demo`, `pipeline`, `extract`, `train` and `evaluate`."""

from functools import partial
from typing import TYPE_CHECKING

import typer

from pipeline.cli.dataset_notes import print_dataset_notes, print_notes
from pipeline.cli.options import (
    DryRunOption,
    PlanOption,
    SetOption,
    make_runner,
    make_vectors,
    print_preview,
    print_warning,
)
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from pipeline.stages import Vectors
    from tern.evaluation import Evaluation

EXTRACTION = ("dataset", "region features", "token features")


def demo(overrides: SetOption = None, dry_run: DryRunOption = False) -> None:
    """Run the whole pipeline on the demo dataset: all stages, the published index and a report.

    [dim]Example: tern demo[/dim]
    """
    pipeline("demo", overrides, dry_run)


def pipeline(plan: PlanOption = "demo", overrides: SetOption = None, dry_run: DryRunOption = False) -> None:
    """Run all stages of a plan that are not finished, publish the index and write the report.

    Makes the feature stores, the model, the vectors, the metrics, a version of the index, the report and the page of
    misses.

    [dim]Example: tern pipeline --plan flickr30k --dry-run[/dim]
    """
    if dry_run:
        print_preview(plan, overrides)
        return
    runner = make_runner(plan, overrides)
    from pipeline.pages.report import write_report
    from pipeline.runs import Finished

    features = runner.extract(runner.load_trainable_dataset())
    print_dataset_notes(runner, features)
    vectors = runner.embed(features, runner.train(features))
    if len(vectors.features.invalid_records) > len(features.invalid_records):
        print_dataset_notes(runner, vectors.features)
    evaluation = runner.evaluate(vectors)
    _print_metrics(evaluation, vectors)
    index = runner.publish_index(vectors)
    echo(f"index   {index}")
    finished = Finished(runner.plan, vectors, evaluation, index, runner.list_finished_stages())
    echo(f"report  {write_report(finished)}")


def extract(plan: PlanOption = "demo", overrides: SetOption = None, dry_run: DryRunOption = False) -> None:
    """Extract region and token features into stores.

    Makes both feature stores, and the images of the demo dataset.

    [dim]Example: tern extract --plan flickr30k --set workers=8[/dim]
    """
    if dry_run:
        print_preview(plan, overrides, EXTRACTION)
        return
    runner = make_runner(plan, overrides)
    from pipeline.stages import find_training_problem

    dataset = runner.load_dataset()
    if runner.plan.trains_model and (problem := find_training_problem(dataset)):
        print_warning(problem)
    features = runner.extract(dataset)
    print_dataset_notes(runner, features)
    echo(f"regions  {features.regions}", f"tokens   {features.tokens}")


def train(plan: PlanOption = "demo", overrides: SetOption = None, dry_run: DryRunOption = False) -> None:
    """Train the model of a plan, in one process or under torchrun.

    Makes the model, and before it the feature stores where they are not finished.

    [dim]Examples: tern train --set train.seed=1 --set train.epochs=40
    torchrun --nproc-per-node 2 -m pipeline.cli train --plan flickr30k[/dim]
    """
    if dry_run:
        print_preview(plan, overrides, (*EXTRACTION, "training"))
        return
    runner = make_runner(plan, overrides, allow_torchrun=True)
    from pipeline.runs import train_together
    from tern.parallel import is_main_process

    model = train_together(runner, partial(print_dataset_notes, runner))
    if is_main_process():
        echo(f"model  {model}")
        from pipeline.runs import describe_training
        from tern.card import read_model_card

        print_notes(describe_training(read_model_card(model)))


def evaluate(plan: PlanOption = "demo", overrides: SetOption = None, dry_run: DryRunOption = False) -> None:
    """Print recall in both directions on the held-out splits.

    Makes the vectors and the metrics, and before them the feature stores and the model where they are not finished.
    Publishes nothing.

    [dim]Example: tern evaluate --plan flickr8k[/dim]
    """
    if dry_run:
        print_preview(plan, overrides, (*EXTRACTION, "training", "embedding", "evaluation"))
        return
    runner = make_runner(plan, overrides)
    vectors = make_vectors(runner)
    print_dataset_notes(runner, vectors.features)
    _print_metrics(runner.evaluate(vectors), vectors)


def _print_metrics(evaluation: "Evaluation", vectors: "Vectors") -> None:
    from pipeline.runs import describe_chance, describe_missing_captions, describe_training
    from tern.card import read_model_card

    print_notes(describe_missing_captions(vectors.features.dataset, evaluation))
    if not evaluation.splits:
        return
    echo("split   direction      R@1    R@5   R@10  median   mean    rsum")
    for split, split_evaluation in evaluation.splits.items():
        metrics = split_evaluation.metrics
        for direction, label in ((metrics.t2i, "text to image"), (metrics.i2t, "image to text")):
            recalls = f"{direction.r1:5.1f}  {direction.r5:5.1f}  {direction.r10:5.1f}"
            ranks = f"{direction.medr:6.0f}  {direction.meanr:5.1f}"
            echo(f"{split:<7} {label}  {recalls}  {ranks}  {metrics.rsum:6.1f}")
        for key, value in split_evaluation.flat().items():
            if key.startswith("fold_") or "_ndcg_" in key:
                echo(f"{split:<7} {key:<24} {value:8.3f}")
    for note in describe_chance(evaluation):
        echo(note)
    print_notes(describe_training(read_model_card(vectors.model)))


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the application."""
    for command in (demo, pipeline, extract, train, evaluate):
        app.command()(command)
