"""Commands that show results: `tern report`, `misses`, `plans` and `lineage`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import (
    ForceOption,
    ModelOption,
    PlanOption,
    SetOption,
    check_page_option,
    load_selected_plan,
    print_message,
    read_existing_vectors,
)
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from pipeline.pages.miss_records import MissReport
    from pipeline.plans import Plan
    from pipeline.runs.quality import SplitComparison
    from pipeline.stages import Vectors


def report(plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """Write the report of what is published: metrics, curves, galleries.

    Writes report.html in the workspace and nothing else; it neither trains nor publishes.

    [dim]Example: tern report --plan flickr8k[/dim]
    """
    from pipeline.workspace import Workspace, check_published

    loaded = load_selected_plan(plan, overrides)
    check_published(Workspace(loaded.workspace))
    from pipeline.pages.report import write_report
    from pipeline.runs import read_finished

    echo(f"report  {write_report(read_finished(loaded, print_message), with_misses_page=False)}")


def misses(
    split: Annotated[
        str, typer.Option(help="Split whose images and captions are the queries and the results.")
    ] = "test",
    k: Annotated[int, typer.Option("-k", min=1, help="Number of results within which a query must succeed.")] = 1,
    limit: Annotated[
        int, typer.Option(min=1, max=500, help="Maximum number of misses shown per direction, worst first.")
    ] = 40,
    output: Annotated[
        Path | None, typer.Option(help="Page to write (.html); by default, misses-SPLIT.html in the workspace.")
    ] = None,
    force: ForceOption = False,
    model: ModelOption = "",
    against: Annotated[
        str,
        typer.Option(
            help="Evaluation to compare with: name of a trained model of the workspace, or a file ranks-*.json or "
            "metrics-*.json of any workspace."
        ),
    ] = "",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Write a page of missed queries: those whose relevant item is not among the first k results.

    Reads the vectors that exist, and writes the page and nothing else. `tern evaluate` makes vectors. With --against,
    the page also compares every metric with another evaluation of the same split, and shows what was won and lost.

    [dim]Examples: tern misses
    tern misses --plan flickr8k --split val -k 10 --limit 100 --output misses.html
    tern misses --against runs/other/evaluation/ranks-0123456789ab.json[/dim]
    """
    loaded = load_selected_plan(plan, overrides)
    if output is not None:
        check_page_option(output, (".html",), force, loaded)
    vectors = read_existing_vectors(loaded, model)
    from pipeline.pages.miss_words import open_miss_words
    from pipeline.pages.misses import find_misses, write_misses
    from pipeline.progress import progress_bar
    from pipeline.workspace import Workspace

    comparison = _compare(loaded, vectors, split, k, against) if against else None
    found = find_misses(vectors, vectors.features.dataset, split, k, limit, comparison)
    _print_counts(found)
    target, words = output or Workspace(loaded.workspace).misses(split), open_miss_words(vectors)
    with progress_bar("misses", sum(map(len, found.worst.values()))) as advance:
        page = write_misses(target, found, vectors.features.dataset, advance, words)
    echo(f"misses  {page}")


def _compare(plan: "Plan", vectors: "Vectors", split: str, k: int, against: str) -> "SplitComparison":
    """Compare the ranks of the vectors with those of the evaluation that `--against` names."""
    from pipeline.runs.quality import compare_split, read_other_ranks
    from pipeline.stages import read_or_compute_ranks
    from pipeline.workspace import Workspace

    dataset = vectors.features.dataset
    ranks = read_or_compute_ranks(vectors, dataset, Workspace(plan.workspace), split, plan.evaluate)
    return compare_split(ranks, read_other_ranks(plan, against, split, print_message), dataset, k)


def _print_counts(report: "MissReport") -> None:
    """Print the numbers of misses, and of queries won and lost if the evaluation is compared with another one."""
    from tern.evaluation import DIRECTIONS

    k, comparison = report.k, report.comparison
    for direction, label in DIRECTIONS.items():
        missed, queries = report.num_missed[direction], report.num_queries[direction]
        echo(f"{label}  {missed:,} of {queries:,} queries missed at k={k}, {len(report.worst[direction])} shown")
    if comparison is None:
        return
    echo(f"against  {comparison.name}")
    for direction, label in DIRECTIONS.items():
        one = comparison.directions[direction]
        change = f"{one.difference:+.1f} points, 95 % interval {one.low:+.1f} to {one.high:+.1f}"
        counts = f"{len(one.won):,} won, {len(one.lost):,} lost, {one.p_text}"
        unshared = f"; {one.num_unshared:,} queries of one alone left out" if one.num_unshared else ""
        echo(f"{label}  R@{k} {one.recall:.1f}, there {one.other_recall:.1f}: {change}; {counts}{unshared}")
    if rsum := comparison.metrics.get("rsum"):
        change = f"{rsum.difference:+.1f} points, 95 % interval {rsum.low:+.1f} to {rsum.high:+.1f}"
        echo(f"rsum  {rsum.value:.1f}, there {rsum.other:.1f}: {change}")


def plans() -> None:
    """List the shipped plans.

    [dim]Example: tern plans[/dim]
    """
    from pipeline.plan_files import read_plan_title, shipped_plans

    for name, path in shipped_plans().items():
        echo(f"{name:<20} {read_plan_title(path)}")


def lineage(
    plan: PlanOption = "demo",
    include_unused: Annotated[
        bool, typer.Option("--all", help="Everything in the workspace, not only what the published version is made of.")
    ] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Output as a Mermaid flow chart.")] = False,
    overrides: SetOption = None,
) -> None:
    """Print what the published index was made from: stores, model, vectors. Writes nothing.

    [dim]Example: tern lineage --plan demo --all[/dim]
    """
    from pipeline.lineage import read_lineage

    found = read_lineage(load_selected_plan(plan, overrides).workspace, include_unused)
    echo(*(found.to_mermaid() if mermaid else found.to_text()).removesuffix("\n").split("\n"))


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the application."""
    for command in (report, misses, plans, lineage):
        app.command()(command)
