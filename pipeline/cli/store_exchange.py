"""Commands of `tern store` that exchange features with other software: `import` and `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import ForceOption, StoreArgument, print_invalid_records, print_warning, resolve_store_folder
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from data.exchange import ImportResult


def import_(
    sources: Annotated[
        list[Path], typer.Argument(help="Files, or folders with one file per image.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="Folder of stores; the store gets its own folder in it.")],
    format: Annotated[
        str, typer.Option(help="Name of a format of docs/reference/region-formats.md, or auto to detect it.")
    ] = "auto",
    id_template: Annotated[
        str,
        typer.Option(help="Template of image ids: {id}, {stem}, {number} (the last digits of the id), {number:012d}."),
    ] = "{id}",
    name: Annotated[
        str, typer.Option(help="Name of the features; imports with the same name extend the same store.")
    ] = "",
    float16: Annotated[
        bool, typer.Option("--float16", help="Features in half precision: half the disk space, but rounded.")
    ] = False,
    images: Annotated[Path | None, typer.Option(help="Folder of images, for formats without image sizes.")] = None,
    sizes: Annotated[
        str,
        typer.Option(help="Source of image sizes: images, or boxes (a guess: the image ends where its last box ends)."),
    ] = "images",
    boxes: Annotated[
        str, typer.Option(help="Source of boxes: file, or image (every row without a box gets the whole image).")
    ] = "file",
    transposed: Annotated[
        str, typer.Option(help="Whether array x of an .npz file has shape (width, rows): yes, no or auto.")
    ] = "auto",
    feature_arrays: Annotated[
        str, typer.Option(help="Arrays of an .npz file of flat rows that form the feature, separated by commas.")
    ] = "",
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale the rows of each feature array to unit length.")
    ] = False,
    allow_pickle: Annotated[
        list[str] | None,
        typer.Option(help="Array that may be a pickle of plain values, such as info. Can be repeated."),
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="Text file with the names of the classes, one per line.")] = None,
    attributes: Annotated[
        Path | None, typer.Option(help="Text file with the names of the attributes, one per line.")
    ] = None,
    images_per_shard: Annotated[
        int, typer.Option(min=1, help="Number of images per shard; memory use is one shard.")
    ] = 500,
) -> None:
    """Import region features of other software into a store.

    The same command resumes an interrupted import.

    [dim]Examples: tern store import train2014_obj36.tsv --output runs/coco/stores --id-template "{id}.jpg"[/dim]

    [dim]tern store import cocobu --output stores --images photos --id-template "COCO_train2014_{id:012d}.jpg"[/dim]
    """
    from data.config import ImportConfig, ReadOptions
    from data.exchange import count_images, detect_formats, import_regions
    from pipeline.progress import progress_bar

    for option, value, choices in (
        ("--transposed", transposed, ("auto", "yes", "no")),
        ("--sizes", sizes, ("images", "boxes")),
        ("--boxes", boxes, ("file", "image")),
    ):
        if value not in choices:
            raise typer.BadParameter(f"{option} is {value!r}. Pass one of {', '.join(choices)}.")
    options = ReadOptions(
        transposed={"auto": None, "yes": True, "no": False}[transposed],
        arrays=tuple(part for part in feature_arrays.split(",") if part),
        normalize=normalize,
        allow_pickle=tuple(allow_pickle or ()),
    )
    config = ImportConfig.model_validate(
        {
            "sources": tuple(sources),
            "format": format,
            "name": name,
            "id_template": id_template,
            "float16": float16,
            "images": images,
            "sizes": sizes,
            "boxes": boxes,
            "options": options,
            "classes": classes,
            "attributes": attributes,
            "images_per_shard": images_per_shard,
        }
    )
    for path, detected in zip(config.sources, detect_formats(config), strict=True):
        echo(f"format   {path}: {detected.name} ({detected.title})")
    with progress_bar("import", count_images(config)) as advance:
        result = import_regions(config, output, advance)
    _print_import(result)


def _print_import(result: "ImportResult") -> None:
    records = result.invalid_records
    print_invalid_records(records, "the manifest of the store lists all of them")
    for warning in result.warnings:
        print_warning(warning)
    unchanged = f", {result.num_unchanged:,} unchanged" if result.num_unchanged else ""
    echo(f"images   {result.num_imported:,} imported{unchanged}, {len(records):,} invalid")
    if result.num_replaced:
        print_warning(f"{result.num_replaced:,} of {result.num_imported:,} images replace others of the same id")
    echo(f"regions  {result.folder}")
    echo(f'plan     regions_store = "{result.folder}"')


def export(
    folder: StoreArgument,
    output: Annotated[Path, typer.Option(help="File to write, or folder for formats with one file per image.")],
    format: Annotated[
        str, typer.Option(help="Name of a format of docs/reference/region-formats.md, such as lxmert-tsv.")
    ],
    id_template: Annotated[
        str,
        typer.Option(help="Template of the written ids: {id}, stem (no suffix), {number} (the last digits of the id)."),
    ] = "{id}",
    ids_file: Annotated[
        Path | None,
        typer.Option(help="Text file with the image ids to export, one per line, in this order; by default, all."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Export a region store to a format of other software.

    [dim]Examples: tern store export stores/regions-1a2b --format lxmert-tsv --output obj36.tsv --id-template stem[/dim]

    [dim]tern store export stores/regions-3c4d --format tern --output coco_bu --id-template "{number}"[/dim]
    """
    from data.exchange import export_regions
    from data.store import Store
    from data.text import read_lines
    from pipeline.progress import progress_bar

    folder = resolve_store_folder(folder)
    image_ids = None if ids_file is None else [line.strip("\r") for line in read_lines(ids_file) if line.strip()]
    with progress_bar("export", len(Store(folder)) if image_ids is None else len(image_ids)) as advance:
        count = export_regions(folder, output, format, id_template, image_ids, force, advance)
    echo(f"{format}  {count:,} images in {output}")


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the group `tern store`."""
    app.command("import")(import_)
    app.command()(export)
