"""`tern index update` and `tern index compact`."""

from typing import Annotated

import typer

from pipeline.index_commands import IndexOption, PlanOption, root_of

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
    """What is new, changed or gone in the data set, into the published index; what is there already stays as it is.

    The index is compacted, or its centroids trained anew, where the plan's [upkeep] says so. Another model or other
    settings of the index are refused: they are a build's.

    [dim]Example: tern index update --plan flickr30k[/dim]
    """
    from functools import partial

    from pipeline.chain import Chain
    from pipeline.indexing import served, trained, update_index
    from pipeline.plan import load_plan
    from pipeline.workers import in_processes

    loaded = load_plan(plan, tuple(overrides or ()))
    before, own = served(loaded.workspace, version)
    pinned = trained(loaded.workspace, model) if model else own
    indexed = partial(update_index, upkeep=loaded.upkeep, version=version, say=partial(typer.echo, err=True))
    chain = Chain(loaded, lambda label: in_processes(loaded.workers, label), pinned=pinned, indexed=indexed)
    typer.echo(f"index  {chain.index}{'  nothing to do' if chain.index == before else ''}")


def compact(plan: PlanOption = "demo", overrides: SetOption = None, index: IndexOption = None) -> None:
    """Deltas and dead rows into whole shards, on the same centroids: ids and answers stay.

    [dim]Example: tern index compact --plan flickr30k[/dim]
    """
    from index import compact, gate_of
    from pipeline.plan import load_plan

    judge = gate_of(load_plan(plan, tuple(overrides or ())).gate, {}, {})  # rows and their vectors are looked at
    typer.echo(f"index  {compact(root_of(plan, overrides, index), gate=judge)}")
