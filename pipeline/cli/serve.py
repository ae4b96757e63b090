"""`tern serve`: answer queries over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import PlanOption, SetOption, check_port_is_free
from pipeline.cli.search_source import (
    DEFAULT_PLAN,
    ImageFolderOption,
    IndexFolderOption,
    IndexModelOption,
    SourceOptions,
)


def serve(
    plan: PlanOption = DEFAULT_PLAN,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default accepts connections from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port to listen on.")] = 8080,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name that requests may use, such as the name of a proxy; may be repeated. By default, only the "
            "address of --host, localhost and 127.0.0.1.",
            metavar="NAME",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="File with the bearer tokens that requests must have, one per line; TERN_TOKENS adds more.",
            metavar="FILE",
        ),
    ] = None,
    allow_anonymous: Annotated[
        bool,
        typer.Option(
            "--allow-anonymous", help="Answer without tokens although other machines can reach the address of --host."
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that share the port and the files of the index.")
    ] = 1,
    index: IndexFolderOption = None,
    model: IndexModelOption = None,
    image_folder: ImageFolderOption = None,
    overrides: SetOption = None,
) -> None:
    """Serve a search page and an API of JSON until Ctrl-C. Writes nothing to the workspace.

    [dim]Examples: tern serve --plan demo --port 8080
    tern serve --host 0.0.0.0 --tokens tokens.txt --workers 2
    tern serve --index copied-index --model my-model --image-folder photos[/dim]
    """
    from pipeline.service.access.bearer_tokens import check_exposure, read_tokens

    selected = SourceOptions(plan, overrides, "", index, model, image_folder)
    selected.check()
    loaded = selected.load_plan()
    accepted_tokens = read_tokens(tokens)
    check_exposure(host, accepted_tokens, allow_anonymous)
    source = selected.find(loaded)  # before heavy libraries are imported
    check_port_is_free(host, port)

    def serve_until_signal(metrics_folder: Path | None) -> None:
        from pipeline.service.server import ServiceOptions, serve

        options = ServiceOptions(host, port, tuple(allowed_host or ()), accepted_tokens, metrics_folder)
        serve(source.open_searchers(), options)

    if workers == 1:
        serve_until_signal(None)
        return
    from pipeline.service.supervisor import Supervisor

    if not Supervisor(serve_until_signal, workers).run():
        raise typer.Exit(1)


def register_commands(app: typer.Typer) -> None:
    """Add the command of this module to the application."""
    app.command()(serve)
