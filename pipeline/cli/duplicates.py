"""`tern duplicates`: list the images of an index that are copies of each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import ForceOption, PlanOption, SetOption, VersionOption, check_page_option, print_message
from pipeline.cli.output import echo
from pipeline.cli.search_source import DEFAULT_PLAN, ImageFolderOption, IndexFolderOption, SourceOptions

if TYPE_CHECKING:
    from index.metadata import Row
    from index.quality import DuplicateGroup
    from pipeline.cli.search_source import SearchSource

MIN_THRESHOLD, DEFAULT_THRESHOLD = 0.5, 0.9  # those of the package `index`, which a light start does not import


def duplicates(
    threshold: Annotated[
        float,
        typer.Option(
            min=MIN_THRESHOLD,
            max=1,
            help="Smallest cosine of near copies; 1: only images of equal content. docs/how-to/duplicates.md has "
            "precision and recall of several thresholds.",
        ),
    ] = DEFAULT_THRESHOLD,
    leaks: Annotated[
        bool, typer.Option("--leaks", help="Only groups whose images are in several splits of the dataset.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per group.")] = False,
    output: Annotated[Path | None, typer.Option(help="Page with pictures to write (.html).", metavar="FILE")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of groups on the page.")] = 100,
    force: ForceOption = False,
    index: IndexFolderOption = None,
    image_folder: ImageFolderOption = None,
    version: VersionOption = "",
    plan: PlanOption = DEFAULT_PLAN,
    overrides: SetOption = None,
) -> None:
    """List the images of the index that are copies of each other: of equal content, or similar by their vectors.

    Deletes nothing, and writes only the page that --output names. Each group begins with the image with the most
    pixels. Groups with images in several splits of the dataset come first.

    [dim]Examples: tern duplicates --plan ~/Pictures --output copies.html
    tern duplicates --leaks
    tern duplicates --threshold 1 --json[/dim]
    """
    selected = SourceOptions(plan, overrides, version, index, None, image_folder)
    selected.check()
    loaded = selected.load_plan()
    if output is not None:
        check_page_option(output, (".html",), force, loaded)
    source = selected.find(loaded)
    image_root = _find_image_root(source)
    groups = [group for group in _find_groups(source, image_root, threshold) if group.is_leak or not leaks]
    _print_groups(groups, as_json)
    if output is not None:
        from pipeline.pages.duplicates import write_duplicates
        from pipeline.progress import progress_bar

        with progress_bar("page", min(limit, len(groups))) as advance:
            write_duplicates(output, groups, image_root, threshold, limit, advance)
        print_message(f"page  {output}")


def _print_groups(groups: "list[DuplicateGroup]", as_json: bool) -> None:
    """Print the groups as text or as one JSON object per line, and their numbers on standard error."""
    from pipeline.pages.duplicates import describe_group, describe_image, format_group

    for number, group in enumerate(groups, 1):
        if as_json:
            echo(format_group(group))
            continue
        echo(f"group {number}  {describe_group(group)}")
        for image in group.images:
            echo(f"  {image.cosine:.3f}  {image.row.id}  {describe_image(image, image is group.images[0])}")
    copies = sum(len(group.images) - 1 for group in groups)
    print_message(f"{len(groups):,} groups with {copies:,} copies, {sum(group.is_leak for group in groups):,} leaks")


def _find_image_root(source: "SearchSource") -> Path | None:
    """Find the folder of the images, for the sizes of the files and for the pictures."""
    from pipeline.workspace import Workspace

    if source.plan is None:
        return source.images
    return source.plan.dataset.images if source.plan.dataset else Workspace(source.plan.workspace).dataset / "images"


def _find_groups(source: "SearchSource", image_root: Path | None, threshold: float) -> "list[DuplicateGroup]":
    from index.quality import find_duplicates
    from index.search import Index
    from pipeline.progress import progress_bar
    from pipeline.search.image_files import find_image_file

    def get_size_bytes(row: "Row") -> int | None:
        file = find_image_file(image_root, row)
        try:
            return None if file is None else file.stat().st_size
        except OSError:
            return None

    with Index.open(source.root, source.number) as index:
        total = index.manifest.collections["image"].counts.live if "image" in index.kinds else 0
        with progress_bar("compare images", total) as advance:
            return find_duplicates(index, get_size_bytes, threshold, advance)


def register_commands(app: typer.Typer) -> None:
    """Add the command of this module to the application."""
    app.command()(duplicates)
