"""Commands that run the stages of a plan: `tern demo`, `pipeline`, `extract`, `train` and `evaluate`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.dataset_notes import print_dataset_notes, print_notes
from pipeline.cli.evaluation_output import print_groups, print_metrics
from pipeline.cli.options import (
    DryRunOption,
    ForceOption,
    PlanOption,
    SetOption,
    load_selected_plan,
    make_runner,
    make_vectors,
    print_message,
    print_preview,
    print_warning,
)
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from data.config import DemoConfig
    from pipeline.plans import Plan
    from pipeline.runs import Finished

EXTRACTION = ("dataset", "region features", "token features")


def demo(overrides: SetOption = None, dry_run: DryRunOption = False) -> None:
    """Run the whole pipeline on the demo dataset: all stages, the published index and a report.

    Then indexes a second dataset, scenes of another seed without their captions, with the model of the first one, and
    judges it with the captions. It is in the folder WORKSPACE-carried.

    [dim]Example: tern demo[/dim]
    """
    if dry_run:
        _print_second_dataset(load_selected_plan("demo", overrides))
        print_preview("demo", overrides)
        return
    finished = _run_stages("demo", overrides)
    _carry_model(finished)
    from pipeline.pages.report import write_report

    echo(f"report  {write_report(finished)}")


def pipeline(plan: PlanOption = "demo", overrides: SetOption = None, dry_run: DryRunOption = False) -> None:
    """Run all stages of a plan that are not finished, publish the index and write the report.

    Makes the feature stores, the model, the vectors, the metrics, a version of the index, the report and the page of
    misses.

    [dim]Example: tern pipeline --plan flickr30k --dry-run[/dim]
    """
    if dry_run:
        print_preview(plan, overrides)
        return
    finished = _run_stages(plan, overrides)
    from pipeline.pages.report import write_report

    echo(f"report  {write_report(finished)}")


def _run_stages(plan: str, overrides: list[str] | None) -> "Finished":
    """Run all stages of a plan, and print what they found and made."""
    runner = make_runner(plan, overrides)
    from pipeline.runs import Finished

    features = runner.extract(runner.load_trainable_dataset())
    print_dataset_notes(runner, features)
    vectors = runner.embed(features, runner.train(features))
    if len(vectors.features.invalid_records) > len(features.invalid_records):
        print_dataset_notes(runner, vectors.features)
    evaluation = runner.evaluate(vectors)
    print_metrics(evaluation, vectors)
    index = runner.publish_index(vectors)
    echo(f"index   {index}")
    return Finished(runner.plan, vectors, evaluation, index, runner.list_finished_stages())


def _carry_model(finished: "Finished") -> None:
    """Index and judge the second dataset of the demo, and print the figures of both, if the plan has such a dataset."""
    config = _print_second_dataset(finished.plan)
    if config is None:
        return
    from pipeline.runs.carried_demo import evaluate_second_dataset
    from pipeline.workers import make_process_map

    carried = evaluate_second_dataset(finished, config, partial(make_process_map, finished.plan.workers))
    for name, result in carried.rows.items():
        recalls = "; ".join(
            f"{label} R@1 {direction.r1:.1f}, R@10 {direction.r10:.1f}"
            for label, direction in (("text to image", result.metrics.t2i), ("image to text", result.metrics.i2t))
        )
        echo(f"{name:<14}  {recalls} ({result.images:,} images)")
    echo(f"index   {carried.index}")


def _print_second_dataset(plan: "Plan") -> "DemoConfig | None":
    """Print what the second dataset of the demo is, and return its settings; None if the plan has no such."""
    from pipeline.runs.carried_demo import configure_second_dataset, find_second_workspace

    config = configure_second_dataset(plan)
    if config is None:
        print_notes(["no second dataset: the plan has no split test, or takes its regions from a store or a file"])
        return None
    root = find_second_workspace(plan).root
    print_message(f"second dataset  {config.images:,} scenes of seed {config.seed}, indexed without captions in {root}")
    return config


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


def evaluate(
    plan: PlanOption = "demo",
    groups: Annotated[
        bool,
        typer.Option("--groups", help="Also print metrics by caption length and, on the demo, by objects and words."),
    ] = False,
    trec: Annotated[
        Path | None,
        typer.Option(help="Folder for the rankings as files of TREC, for ir_measures and ranx; none by default."),
    ] = None,
    force: ForceOption = False,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Print recall in both directions on the held-out splits.

    Makes the vectors, the metrics and the ranks of all queries, and before them the feature stores and the model where
    they are not finished. Publishes nothing.

    [dim]Examples: tern evaluate --plan flickr8k
    tern evaluate --groups --trec runs/demo/trec[/dim]
    """
    if dry_run:
        print_preview(plan, overrides, (*EXTRACTION, "training", "embedding", "evaluation"))
        return
    runner = make_runner(plan, overrides)
    from pipeline.runs.quality import check_trec_folder, write_trec_files

    if trec is not None:
        check_trec_folder(trec, force)
    vectors = make_vectors(runner)
    print_dataset_notes(runner, vectors.features)
    evaluation = runner.evaluate(vectors)
    print_metrics(evaluation, vectors)
    if groups and evaluation.splits:
        print_groups(runner.plan, vectors, [*evaluation.splits])
    if trec is not None:
        for path in write_trec_files(vectors, vectors.features.dataset, trec, vectors.model.name):
            echo(f"trec    {path}")


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the application."""
    for command in (demo, pipeline, extract, train, evaluate):
        app.command()(command)
