"""What `flows` adds to the command line: `tern up` and `tern run`. Prefect is imported only when they are called."""

from typing import Annotated

import typer

PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect server, on this machine alone.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application (entry point `tern.commands`)."""
    app.command()(up)
    app.command()(run)


def up(
    port: PortOption = 4200,
    nightly: Annotated[
        str | None, typer.Option(help="Also switch the nightly re-index on, for this plan.", metavar="PLAN")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="When `--nightly` re-indexes, as a cron line in UTC. [default: 0 3 * * *]")
    ] = None,
) -> None:
    """A Prefect server, the deployments and a worker, until Ctrl-C. [dim]Example: tern up --nightly flickr30k[/dim]"""
    from flows.server.up import run_server_and_worker

    run_server_and_worker(port, nightly, cron)


def run(
    name: Annotated[
        str, typer.Argument(help="A deployment: extract-flickr, train-tern, build-index, reindex or pipeline.")
    ],
    plan: Annotated[
        str, typer.Option("--plan", "-p", help="A plan file, or the name of a shipped plan.")
    ] = "flickr30k",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting of the plan: KEY=VALUE. Repeatable.")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--param", help="One more parameter of the flow: KEY=VALUE, for instance workers=8. Repeatable."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port of a server on this machine. [default: that of PREFECT_API_URL, else 4200]"
        ),
    ] = None,
) -> None:
    """Start a deployment, follow its progress, exit with its verdict: 0 if it completed.

    [dim]Examples: tern run pipeline --plan demo
    tern run extract-flickr --set workers=4 --param images_per_shard=500[/dim]
    """
    from flows.server.environment import apply_environment

    apply_environment(port)
    from flows.server.follow import follow_run

    raise typer.Exit(follow_run(name, plan, tuple(overrides or ()), tuple(parameters or ()), typer.echo))
