"""`tern search`: query the published index."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import ForceOption, PlanOption, SetOption, VersionOption, check_page_option
from pipeline.cli.search_output import SearchOutput, check_preview, open_preview
from pipeline.cli.search_queries import QueryOptions, iter_queries, open_vectors
from pipeline.cli.search_run import HitOptions, check_search, run_search
from pipeline.cli.search_source import (
    DEFAULT_PLAN,
    ImageFolderOption,
    IndexFolderOption,
    IndexModelOption,
    SourceOptions,
)


def search(
    text: Annotated[
        str | None, typer.Argument(help="Text query that images are ranked for.", show_default=False)
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Photo to search with; repeatable. Alone, it ranks captions.", metavar="FILE"),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(help="Image of the index to search with, by its id; repeatable.", metavar="ID"),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(help="Region of the --image or --like, in pixels of the image as shown.", metavar="X1,Y1,X2,Y2"),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to add to the query; repeatable. TEXT^1.5 has the weight 1.5 in place of 1.", metavar="TEXT"
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to avoid; repeatable. TEXT^2 has the weight 2 in place of 0.5 beside a text query, and of 1 "
            "otherwise.",
            metavar="TEXT",
        ),
    ] = None,
    vector: Annotated[
        Path | None,
        typer.Option(help="File .npy with an embedding (e,), or with one query per row (n, e).", metavar="FILE"),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            help="File with one text query per line, any number of them; - is standard input.", metavar="FILE"
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--for", help="What to rank: images or captions. By default, captions for --image alone, otherwise images."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of hits.")] = 8,
    offset: Annotated[
        int, typer.Option(min=0, max=100_000, help="Number of best hits to leave out, to see the next ones.")
    ] = 0,
    where: Annotated[
        str | None,
        typer.Option(
            help="Filter over the metadata of the index; see docs/reference/filters.md. By default, all rows.",
            metavar="FILTER",
        ),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Probability below which hits are weak and listed apart; 0 for none. By default, what keeps 95 % of "
            "the right hits of held-out queries.",
            metavar="P",
        ),
    ] = None,
    unique: Annotated[
        bool, typer.Option("--unique", help="Leave out images that are near copies of a better hit.")
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column of your own to print below each hit; repeatable.", metavar="NAME"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per query.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print only the paths of the images, one per line.")] = False,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="End each path of --paths with a null byte, as `xargs -0` expects.")
    ] = False,
    why: Annotated[
        bool,
        typer.Option("--why", help="Print below each hit which words of a text query match which regions."),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Draw a thumbnail below each hit, on a terminal with graphics (kitty, iTerm2, Sixel) or colors.",
        ),
    ] = False,
    gallery: Annotated[
        Path | None, typer.Option(help="File to write the hits to: a page (.html) or a contact sheet (.png).")
    ] = None,
    force: ForceOption = False,
    index: IndexFolderOption = None,
    model: IndexModelOption = None,
    image_folder: ImageFolderOption = None,
    version: VersionOption = "",
    plan: PlanOption = DEFAULT_PLAN,
    overrides: SetOption = None,
) -> None:
    """Search the published index with texts, photos, images of the index, embeddings, or a sum of them.

    Writes only the file that --gallery names. Without hits, the exit status is 0.

    [dim]Examples: tern search "two dogs are running along the street" --gallery dogs.png
    tern search "dogs" --where "split = 'test' and width >= 400 and not caption like '%cat%'"
    tern search "a dog" --also "in the snow" --without "people"
    tern search --image photo.jpg --box 20,10,180,150 --for images
    tern search "two dogs are running along the street" --why
    tern search "two dogs are running along the street" --preview
    tern search --like scene-00012.jpg --without "a street" --offset 8
    tern search "a red car" --paths -0 | xargs -0 cp -t found/
    tern search --queries queries.txt --json[/dim]
    """
    options = QueryOptions(
        text,
        images=tuple(image or ()),
        likes=tuple(like or ()),
        box=box,
        also=tuple(also or ()),
        without=tuple(without or ()),
        queries=queries,
        vector=vector,
        target=target,
    )
    options.check()
    if sum((as_json, paths, gallery is not None)) > 1:
        raise typer.BadParameter("Pass only one of --json, --paths and --gallery.")
    if why and (paths or as_json):
        raise typer.BadParameter(
            "--why adds lines to the table of hits. Leave out --paths and --json, which has `words`."
        )
    if column and (paths or as_json or gallery is not None):
        raise typer.BadParameter(
            "--column adds lines to the table of hits. Leave out --paths, --gallery and --json, which has `columns`."
        )
    if preview:
        check_preview(as_json or paths)
    if null and not paths:
        raise typer.BadParameter("--null ends the paths of --paths. Pass --paths too.")
    hits = HitOptions(k, offset, where, min_probability, unique)
    selected = SourceOptions(plan, overrides, version, index, model, image_folder)
    selected.check()
    loaded = selected.load_plan()
    if gallery is not None:
        check_page_option(gallery, (".html", ".png"), force, loaded)
    source = selected.find(loaded)
    options = source.resolve_target(options)
    check_search(options, hits, source.read_column_types(), column or ())
    vectors = None if vector is None else open_vectors(vector)
    is_many = queries is not None or (vectors is not None and vectors.ndim == 2)
    if gallery is not None and is_many:
        raise typer.BadParameter("--gallery shows the hits of one query. Pass one text or vector.")
    output = SearchOutput(
        "json" if as_json else "paths" if paths else "text",
        end="\0" if null else "\n",
        is_many=is_many,
        offset=offset,
        no_hits=hits.describe_no_hits(),
        gallery=gallery,
        shows_words=why,
        columns=tuple(column or ()),
        preview=open_preview() if preview else None,
    )
    run_search(source.open(output.shows_regions), iter_queries(options, vectors), hits, output)


def register_commands(app: typer.Typer) -> None:
    """Add the command of this module to the application."""
    app.command()(search)
