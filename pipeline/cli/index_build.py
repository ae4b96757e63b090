"""Commands of `tern index` that write a version: `build`, `tune`, `import`, `update` and `compact`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.text import suggest_name
from pipeline.cli.dataset_notes import print_dataset_notes
from pipeline.cli.options import (
    DryRunOption,
    IndexOption,
    ModelOption,
    PlanOption,
    SetOption,
    load_selected_plan,
    make_runner,
    make_vectors,
    print_invalid_records,
    print_message,
    print_preview,
    print_warning,
    read_existing_vectors,
    resolve_index_root,
)
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from index.config import GateConfig, IndexConfig

EMBEDDING = ("dataset", "region features", "token features", "embedding")


def index(
    context: typer.Context,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Build a version of the index and publish it if it passes the gate.

    Makes a version, and before it the feature stores, the model and the vectors where they are not finished. A model is
    trained first if the training set has changed. Publishing ends a rollback.

    [dim]Example: tern index --set index.shards=8[/dim]
    """
    if context.invoked_subcommand:
        if plan != "demo" or overrides or dry_run:
            raise ValueError(f"--plan and --set come before {context.invoked_subcommand!r}. Pass them after it.")
        return
    build(plan, overrides, dry_run)


def build(plan: PlanOption = "demo", overrides: SetOption = None, dry_run: DryRunOption = False) -> None:
    """Build and publish a version, as `tern index` does, with everything that it is made from.

    [dim]Example: tern index build --plan flickr30k[/dim]
    """
    if dry_run:
        print_preview(plan, overrides, (*EMBEDDING[:3], "training", "embedding", "index"))
        return
    runner = make_runner(plan, overrides)
    _print_pin(runner.workspace.index)
    vectors = make_vectors(runner)
    print_dataset_notes(runner, vectors.features)
    echo(f"index  {runner.publish_index(vectors)}")


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
    model: ModelOption = "",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Measure index settings on held-out queries and recommend one.

    Reads the vectors that exist, and writes a plot to the workspace and nothing else. `tern evaluate` makes vectors.

    [dim]Example: tern index tune --min-recall 0.95 --max-memory-gb 8 --max-latency-ms 5[/dim]
    """
    from index.config import check_kind

    check_kind(kind)
    loaded = load_selected_plan(plan, overrides)
    vectors = read_existing_vectors(loaded, model)
    from index.tuning import TuningLimits
    from pipeline.pages.tuning import format_table, plot_advice
    from pipeline.stages.tune import advise_index_settings
    from pipeline.workspace import Workspace

    limits = TuningLimits(min_recall, max_memory_gb * 1e9, max_latency_ms / 1e3)
    dataset = vectors.features.dataset
    advice = advise_index_settings(kind, limits, vectors, dataset, loaded.index.seed, vectors.model)
    rows = format_table(advice)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    plot = Workspace(loaded.workspace).tuning_plot(kind)
    plot_advice(advice, limits, plot)
    measured = f"measured on {advice.num_sampled} of {advice.num_rows} rows"
    echo(f"> recommended for this kind of query, * on the Pareto front; {measured}")
    echo(*(f"note   {note}" for note in advice.notes), f"plot   {plot}")
    settings = [*advice.settings, f"index.target_recall={min_recall:g}"]
    echo("build  tern index " + " ".join(f"--set '{setting}'" for setting in settings))


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of .npy and Parquet files.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder of the index; created if it does not exist.")],
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale vectors and queries to unit length.")] = False,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="Queries (.npy) to measure recall with; by default, vectors of the other kind, or without one of the "
            "same kind."
        ),
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
    from index.exchange import ImportOptions, import_index

    config, limits = _parse_import_settings(settings or ())
    imported = import_index(config, folder, output, ImportOptions(normalize, queries, id_column, limits))
    print_invalid_records(imported.invalid_rows, "check the metadata and the vectors")
    for warning in imported.warnings:
        print_warning(warning)
    echo(f"index  {imported.manifest}")


def _parse_import_settings(settings: Sequence[str]) -> "tuple[IndexConfig, GateConfig]":
    from index.config import GateConfig, IndexConfig

    values: dict[str, dict[str, str]] = {"": {}, "gate.": {}}
    for setting in settings:
        key, equals, value = setting.partition("=")
        prefix = "gate." if key.startswith("gate.") else ""
        name, known = key.removeprefix(prefix), (GateConfig if prefix else IndexConfig).model_fields
        if not equals:
            raise typer.BadParameter(f"--set {setting!r} is not a setting. Write KEY=VALUE, such as shards=8.")
        if name not in known:
            raise typer.BadParameter(f"--set {key}: unknown setting; {suggest_name(name, known, 'use one of')}")
        values[prefix][name] = value
    return IndexConfig.model_validate(values[""]), GateConfig.model_validate(values["gate."])


def update(
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of a trained model of the workspace; by default, the model package of the plan, or without one "
            "the model of the published version."
        ),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Number of the version to update; by default, the published version.")
    ] = None,
    dry_run: DryRunOption = False,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Add, replace and delete the rows of the index whose items changed in the dataset.

    Makes a version and publishes it if it passes the gate, and before it the features and vectors of new and changed
    items. It trains no model. Publishing ends a rollback.

    The index is compacted or retrained as the table `maintenance` of the plan says. Another model or other settings of
    the index require a full build: `tern index`.

    [dim]Example: tern index update --plan flickr30k[/dim]
    """
    from pipeline.workspace import Workspace, check_published

    loaded = load_selected_plan(plan, overrides)
    workspace = Workspace(loaded.workspace)
    check_published(workspace)  # before torch is imported
    from pipeline.stages import find_served_version

    before, model_of_index = find_served_version(workspace, version)
    model_folder = workspace.model(model) if model else None if loaded.model else model_of_index
    if dry_run:
        print_preview(plan, overrides, (*EMBEDDING, "index"), model_folder)
        return
    runner = make_runner(plan, overrides)
    _print_pin(workspace.index)
    features = runner.extract(runner.load_dataset(model_is_given=model_folder is not None))
    vectors = runner.embed(features, model_folder or runner.train(features))
    print_dataset_notes(runner, vectors.features)
    updated = runner.update_index(vectors, version, on_message=print_message)
    echo(f"index  {updated}{'  nothing to do' if updated == before else ''}")


def _print_pin(root: Path) -> None:
    """Say that a rollback ends, if there is one."""
    from index.versions import read_pinned_version

    if (pinned := read_pinned_version(root)) is not None:
        print_message(f"rollback  version {pinned} is pinned by a rollback, which ends if a version is published now")


def compact(plan: PlanOption = "demo", overrides: SetOption = None, index: IndexOption = None) -> None:
    """Merge delta shards and remove deleted rows; ids and search results stay the same.

    Makes a version and publishes it if it passes the gate. Publishing ends a rollback.

    [dim]Example: tern index compact --plan flickr30k[/dim]
    """
    loaded, root = load_selected_plan(plan, overrides), resolve_index_root(plan, overrides, index)
    _print_pin(root)
    from index.building import compact_index
    from index.quality import make_gate

    # Without held-out queries, the gate checks only the rows and their vectors.
    echo(f"index  {compact_index(root, gate=make_gate(loaded.gate, {}, {}))}")


def register_commands(app: typer.Typer) -> None:
    """Add `index` itself and the commands of this module to the group."""
    app.callback(invoke_without_command=True)(index)
    for command in (build, tune, update, compact):
        app.command()(command)
    app.command("import")(import_)
