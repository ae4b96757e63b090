"""`tern index update` and `tern index compact`."""

from typing import Annotated

import typer

from pipeline.cli.index_versions import IndexOption, PlanOption, root_of

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting of the plan: KEY=VALUE, for instance upkeep.delta_rows=0.1."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the group `index`."""
    app.command()(update)
    app.command()(compact)


def update(
    model: Annotated[
        str | None, typer.Option(help="A trained model of the workspace, in place of the index's own.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="The version to go on from; the published one.")] = None,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """What is new, changed or gone in the dataset, into the published index; what is there already stays as it is.

    The index is compacted, or its centroids trained anew, where the plan's [upkeep] says so. Another model or other
    settings of the index are refused: they are a build's.

    [dim]Example: tern index update --plan flickr30k[/dim]
    """
    from functools import partial

    from pipeline.plans.load import load_plan
    from pipeline.runs.runner import PipelineRunner
    from pipeline.runs.workers import make_process_map
    from pipeline.stages.index import find_served_version, publish_index_update
    from pipeline.workspace import find_model

    loaded = load_plan(plan, tuple(overrides or ()))
    before, own = find_served_version(loaded.workspace, version)
    pinned = find_model(loaded.workspace, model) if model else own
    indexed = partial(
        publish_index_update, maintenance=loaded.maintenance, version=version, on_message=partial(typer.echo, err=True)
    )
    chain = PipelineRunner(
        loaded, lambda label: make_process_map(loaded.workers, label), model_folder=pinned, index_stage=indexed
    )
    typer.echo(f"index  {chain.index}{'  nothing to do' if chain.index == before else ''}")


def compact(plan: PlanOption = "demo", overrides: SetOption = None, index: IndexOption = None) -> None:
    """Deltas and dead rows into whole shards, on the same centroids: ids and answers stay.

    [dim]Example: tern index compact --plan flickr30k[/dim]
    """
    from index.building import compact_index
    from index.quality import make_gate
    from pipeline.plans.load import load_plan

    judge = make_gate(load_plan(plan, tuple(overrides or ())).gate, {}, {})  # rows and their vectors are looked at
    typer.echo(f"index  {compact_index(root_of(plan, overrides, index), gate=judge)}")
