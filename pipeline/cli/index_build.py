"""Commands of `tern index` that write a version: `build`, `tune`, `import`, `update` and `compact`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.options import (
    IndexOption,
    PlanOption,
    SetOption,
    load_selected_plan,
    make_runner,
    make_vectors,
    print_invalid_records,
    print_warning,
    resolve_index_root,
)
from pipeline.cli.output import echo


def index(context: typer.Context, plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """Build a version of the index and publish it if it passes the gate.

    A model is trained first if the training set has changed.

    [dim]Example: tern index --set index.shards=8[/dim]
    """
    if context.invoked_subcommand:
        if plan != "demo" or overrides:
            raise ValueError(f"--plan and --set come before {context.invoked_subcommand!r}. Pass them after it.")
        return
    build(plan, overrides)


def build(plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """Build and publish a version, as `tern index` does.

    [dim]Example: tern index build --plan flickr30k[/dim]
    """
    runner = make_runner(plan, overrides)
    echo(f"index  {runner.publish_index(make_vectors(runner))}")


def tune(
    min_recall: Annotated[
        float, typer.Option(min=0.01, max=1, help="Minimum recall@10 against exact search, 0 to 1.")
    ] = 0.95,
    max_memory_gb: Annotated[
        float, typer.Option(min=0, help="Maximum memory of lists, centroids and vectors, in GB.")
    ] = 8,
    max_latency_ms: Annotated[
        float, typer.Option(min=0, help="Maximum latency of one query on this machine, in ms.")
    ] = 5,
    kind: Annotated[str, typer.Option(help="Collection to tune: image or caption.")] = "image",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Measure index settings on held-out queries and recommend one.

    [dim]Example: tern index tune --min-recall 0.95 --max-memory-gb 8 --max-latency-ms 5[/dim]
    """
    from index.tuning import TuningLimits
    from pipeline.pages.tuning import format_table, plot_advice
    from pipeline.stages.tune import advise_index_settings

    runner, limits = make_runner(plan, overrides), TuningLimits(min_recall, max_memory_gb * 1e9, max_latency_ms / 1e3)
    vectors = make_vectors(runner)
    advice = advise_index_settings(kind, limits, vectors, vectors.features.dataset, runner.plan.index.seed)
    rows = format_table(advice)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    plot = runner.workspace.tuning_plot(kind)
    plot_advice(advice, limits, plot)
    echo(
        "> recommended for this kind of query, * on the Pareto front; "
        f"measured on {advice.num_sampled} of {advice.num_rows} rows"
    )
    echo(f"plot   {plot}")
    settings = [*advice.settings, f"index.target_recall={min_recall:g}"]
    echo("build  tern index " + " ".join(f"--set '{setting}'" for setting in settings))


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of .npy and Parquet files.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder of the index; created if it does not exist.")],
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale vectors to unit length.")] = False,
    queries: Annotated[
        Path | None, typer.Option(help="Queries (.npy) to measure recall with; by default, vectors of the other kind.")
    ] = None,
    id_column: Annotated[
        str, typer.Option(help="Metadata column with the ids; by default, id, image_path, url or key.")
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Setting of the index or its gate, such as shards=8 or gate.min_recall=0.8. Can be repeated.",
        ),
    ] = None,
) -> None:
    """Build an index from vectors of clip-retrieval, autofaiss or `tern index export`.

    The version is published if it passes the gate.

    [dim]Example: tern index import embeddings --output runs/clip/index --set shards=8[/dim]
    """
    from index.config import GateConfig, IndexConfig
    from index.exchange import ImportOptions, import_index

    values: dict[str, Any] = dict(setting.partition("=")[::2] for setting in settings or ())
    limits = {name.removeprefix("gate."): values.pop(name) for name in list(values) if name.startswith("gate.")}
    options = ImportOptions(normalize, queries, id_column, GateConfig(**limits))
    imported = import_index(IndexConfig(**values), folder, output, options)
    print_invalid_records(imported.invalid_rows, "check the metadata and the vectors")
    for warning in imported.warnings:
        print_warning(warning)
    echo(f"index  {imported.manifest}")


def update(
    model: Annotated[
        str | None,
        typer.Option(help="Name of a trained model of the workspace; by default, the model of the published version."),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Number of the version to update; by default, the published version.")
    ] = None,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Add, replace and delete the rows of the index whose items changed in the dataset.

    The index is compacted or retrained as the table `maintenance` of the plan says. Another model or other settings of
    the index require a full build: `tern index`.

    [dim]Example: tern index update --plan flickr30k[/dim]
    """
    from functools import partial

    from pipeline.stages import find_served_version

    runner = make_runner(plan, overrides)
    before, model_of_index = find_served_version(runner.workspace, version)
    model_folder = runner.workspace.model(model) if model else model_of_index
    vectors = runner.embed(runner.extract(runner.load_dataset(model_is_given=True)), model_folder)
    updated = runner.update_index(vectors, version, on_message=partial(echo, err=True))
    echo(f"index  {updated}{'  nothing to do' if updated == before else ''}")


def compact(plan: PlanOption = "demo", overrides: SetOption = None, index: IndexOption = None) -> None:
    """Merge delta shards and remove deleted rows; ids and search results stay the same.

    [dim]Example: tern index compact --plan flickr30k[/dim]
    """
    from index.building import compact_index
    from index.quality import make_gate

    # Without held-out queries, the gate checks only the rows and their vectors.
    gate = make_gate(load_selected_plan(plan, overrides).gate, {}, {})
    echo(f"index  {compact_index(resolve_index_root(plan, overrides, index), gate=gate)}")


def register_commands(app: typer.Typer) -> None:
    """Add `index` itself and the commands of this module to the group."""
    app.callback(invoke_without_command=True)(index)
    for command in (build, tune, update, compact):
        app.command()(command)
    app.command("import")(import_)
