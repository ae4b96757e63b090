"""Commands that query the published index: `tern search` and `tern serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import (
    ForceOption,
    PlanOption,
    SetOption,
    VersionOption,
    check_page_option,
    check_port_is_free,
    load_selected_plan,
    resolve_version_option,
)
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from pipeline.plans.plan import Plan


def search(
    text: Annotated[
        str | None, typer.Argument(help="Text query that images are ranked for.", show_default=False)
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Photo that captions are ranked for, instead of a text query.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of hits.")] = 8,
    where: Annotated[
        str | None,
        typer.Option(
            help="Filter over the metadata of the index; see docs/reference/filters.md. By default, all rows.",
            metavar="FILTER",
        ),
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="File to write the hits to: a page (.html) or a contact sheet (.png).")
    ] = None,
    force: ForceOption = False,
    version: VersionOption = "",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Search the published index with a text or a photo. Writes only the file that --gallery names.

    [dim]Examples: tern search "two dogs are running along the street" --gallery dogs.png
    tern search "dogs" --where "split = 'test' and width >= 400 and not caption like '%cat%'"
    tern search --image photo.jpg[/dim]
    """
    if text is None and image is None:
        raise typer.BadParameter("Pass a text query or --image.")
    if text is not None and image is not None:
        raise typer.BadParameter("Pass a text query or --image, not both.")
    loaded = load_selected_plan(plan, overrides)
    if gallery is not None:
        check_page_option(gallery, (".html", ".png"), force, loaded)
    number = _check_query(loaded, image, where, version)
    from pipeline.pages.gallery import write_gallery
    from pipeline.search.searcher import Searcher

    searcher = Searcher(loaded, number)
    if text is not None:
        title, hits = text, searcher.search_text(text, k, where)
    else:
        assert image is not None
        title, hits = image.name, searcher.search_image(image, k, where)
    if text is not None and (note := searcher.describe_unknown(text)):
        echo(note, color="yellow", err=True)
    for rank, hit in enumerate(hits, 1):
        caption = hit.captions[0] if hit.captions else ""
        echo(f"{rank:>3}  {hit.score:.3f}  {hit.id}  {caption}")
    if not hits:
        echo("No row matches the filter." if where else "The index is empty.", err=True)
    if gallery:
        echo(f"gallery  {write_gallery(gallery, title, hits)}")


def _check_query(plan: "Plan", image: Path | None, where: str | None, version: str) -> int | None:
    """Check everything that needs no model, before torch is imported; return the number of the version."""
    from index.versions import read_version_manifest
    from pipeline.workspace import Workspace, check_has_captions, check_published

    workspace = Workspace(plan.workspace)
    number = resolve_version_option(workspace.index, version)
    if number is None:
        check_published(workspace)
    manifest = read_version_manifest(workspace.index, number)
    if image is not None:
        check_has_captions(manifest)
    if where is not None:
        from index.metadata import parse_filter  # imports pyarrow and numpy

        parse_filter(where)
    if image is not None and not image.is_file():
        raise FileNotFoundError(f"The photo {image} does not exist. Pass an image file.")
    return number


def serve(
    plan: PlanOption = "demo",
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
    overrides: SetOption = None,
) -> None:
    """Serve a search page and an API of JSON until Ctrl-C. Writes nothing to the workspace.

    [dim]Examples: tern serve --plan demo --port 8080
    tern serve --host 0.0.0.0 --tokens tokens.txt --workers 2[/dim]
    """
    from pipeline.bearer_tokens import check_exposure, read_tokens
    from pipeline.workspace import Workspace, check_published

    loaded = load_selected_plan(plan, overrides)
    accepted_tokens = read_tokens(tokens)
    check_exposure(host, accepted_tokens, allow_anonymous)
    check_published(Workspace(loaded.workspace))  # before heavy libraries are imported
    check_port_is_free(host, port)

    def serve_until_signal(metrics_folder: Path | None) -> None:
        from pipeline.service.server import ServiceOptions, serve

        serve(loaded, ServiceOptions(host, port, tuple(allowed_host or ()), accepted_tokens, metrics_folder))

    if workers == 1:
        serve_until_signal(None)
        return
    from pipeline.supervisor import Supervisor

    if not Supervisor(serve_until_signal, workers).run():
        raise typer.Exit(1)


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the application."""
    app.command()(search)
    app.command()(serve)
