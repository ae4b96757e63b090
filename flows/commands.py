"""What `flows` adds to the command line: `tern up` and `tern run`. Prefect is imported only when they are called."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the application (entry point `tern.commands`)."""
    app.command()(up)
    app.command()(run)


def up(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the Prefect server, on this machine alone.")
    ] = 4200,
) -> None:
    """A Prefect server, the deployments and a worker, until Ctrl-C. [dim]Example: tern up[/dim]"""
    from flows.server import serve_all

    serve_all(port)


def run(
    name: Annotated[
        str, typer.Argument(help="A deployment: extract-flickr, train-tern, build-index, reindex or pipeline.")
    ],
    plan: Annotated[
        str, typer.Option("--plan", "-p", help="A plan file, or the name of a shipped plan.")
    ] = "flickr30k",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect server.")] = 4200,
) -> None:
    """Run a deployment and follow it to its end. [dim]Example: tern run pipeline --plan demo[/dim]"""
    from flows.server import run_deployment

    raise typer.Exit(run_deployment(name, plan, port))
