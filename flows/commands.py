"""Commands that `flows` adds to `tern`: `tern up` and `tern run`. Prefect is imported only when they run."""

from typing import Annotated

import typer

from pipeline.cli import PlanOption, SetOption, echo


def register(app: typer.Typer) -> None:
    """Add the commands to the application (entry point `tern.commands`)."""
    app.command()(up)
    app.command()(run)


def up(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="TCP port of the Prefect server, reachable from this machine only.")
    ] = 4200,
    nightly: Annotated[
        str | None, typer.Option(help="Plan to re-index every night; by default, none.", metavar="PLAN")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="Cron expression in UTC of the nightly run; by default, 0 3 * * *.")
    ] = None,
    no_server: Annotated[
        bool,
        typer.Option(
            "--no-server",
            help="Start no server: deploy to the one of PREFECT_API_URL, and run a worker for it.",
        ),
    ] = False,
) -> None:
    """Run a Prefect server, the deployments and a worker until Ctrl-C.

    [dim]Examples: tern up --nightly flickr30k
    PREFECT_API_URL=http://prefect:4200/api tern up --no-server[/dim]
    """
    from flows.server.up import run_server_and_worker

    run_server_and_worker(None if no_server else port, nightly, cron)


def run(
    name: Annotated[
        str,
        typer.Argument(
            help="Deployment: extract-flickr, train-tern, build-index, reindex or pipeline.", show_default=False
        ),
    ],
    plan: PlanOption = "flickr30k",
    overrides: SetOption = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="KEY=VALUE", help="Parameter of the flow, such as workers=8. Can be repeated."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="TCP port of a Prefect server on this machine; by default, that of PREFECT_API_URL, else 4200.",
        ),
    ] = None,
) -> None:
    """Start a run of a deployment, print its progress, and exit with 0 if it completes.

    Without --plan, the plan is `flickr30k`, as in the flows; all other commands have `demo`.

    [dim]Examples: tern run pipeline --plan demo
    tern run extract-flickr --set workers=4 --param images_per_shard=500[/dim]
    """
    from pipeline.plans import load_plan

    load_plan(plan, tuple(overrides or ()))  # before Prefect is imported: an invalid plan is reported at once
    from flows.server.environment import apply_environment

    apply_environment(port)
    from flows.server.follow import follow_run

    raise typer.Exit(follow_run(name, plan, tuple(overrides or ()), tuple(parameters or ()), echo))
