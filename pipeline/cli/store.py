"""Commands of `tern store`: `info`, `verify`, `compact`, `import` and `export` of feature stores."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from data.exchange import ImportResult
    from data.manifest import StoreManifest
    from data.store import Store


HELP = "Inspect, verify, compact, import and export feature stores."
FolderArgument = Annotated[
    Path,
    typer.Argument(
        help="Folder of a store, such as runs/demo/stores/regions-..., or its manifest.json.", show_default=False
    ),
]
MAX_SHOWN = 5  # reasons of invalid items, and entries of a list in a recipe
MAX_INVALID_PRINTED = 20


def info(folder: FolderArgument) -> None:
    """Print what a store contains.

    [dim]Example: tern store info runs/demo/stores/regions-*[/dim]
    """
    from data.store import Store
    from data.text import printable

    with Store(_resolve_folder(folder)) as store:
        for name, value in _describe_store(store):
            typer.echo(f"{name:<13} {printable(value)}")


def _resolve_folder(path: Path) -> Path:
    return path.parent if path.name == "manifest.json" else path


def _describe_store(store: "Store") -> Iterator[tuple[str, str]]:
    shards, invalid, removed = store.manifest.shards, store.invalid_items, store.manifest.removed_ids
    yield "store", str(store.folder)
    yield "kind", f"{store.kind}, generation {store.generation}"
    rows = int(store.lengths(store.ids).sum())
    yield "items", f"{len(store):,}, with {rows:,} rows"
    if len(store):
        yield "features", f"{store.dim:,} x {store.manifest.dtype}"
    unreferenced = sum(entry.items for entry in shards) - len(store)
    waste = f", including {unreferenced:,} unreferenced items: run `tern store compact`" if unreferenced else ""
    yield "shards", f"{len(shards):,}, {sum(entry.bytes for entry in shards):,} bytes{waste}"
    if store.kind == "tokens" and len(store):
        truncated = int((store.read("full_length", store.ids) > store.lengths(store.ids)).sum())
        yield "truncated", f"{truncated:,} captions have more tokens than the store holds"
    yield "invalid items", f"{len(invalid):,}"
    yield from (("", f"{name}: {reason}") for name, reason in list(invalid.items())[:MAX_SHOWN])
    yield "removed ids", f"{len(removed):,}" + (" that are no longer in the dataset" if removed else "")
    for number, (key, value) in enumerate(store.recipe.items()):
        yield "" if number else "recipe", f"{key} = {_shorten(value)}"


def _shorten(value: Any) -> str:
    if isinstance(value, list) and len(value) > MAX_SHOWN:
        return f"{len(value):,} names: {', '.join(map(str, value[:3]))}, ..."
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def verify(
    folder: FolderArgument,
    unlist_damaged: Annotated[
        bool,
        typer.Option("--unlist-damaged", help="Remove damaged shards from the manifest, so that they are recomputed."),
    ] = False,
) -> None:
    """Compare every byte of a store with its checksums, and list damaged files and items.

    [dim]Example: tern store verify runs/demo/stores/regions-*[/dim]
    """
    from data.manifest import read_store_manifest
    from data.store import find_problems, unlist_damaged_shards
    from data.text import printable
    from pipeline.progress import progress_bar

    folder = _resolve_folder(folder)
    manifest = read_store_manifest(folder)
    items = sum(entry.items for entry in manifest.shards)
    with progress_bar("verify", items) as advance:
        problems = find_problems(folder, manifest, advance)
    for problem in problems:
        typer.secho(printable(str(problem)), fg="red")
    if problems and unlist_damaged:
        unlisted = unlist_damaged_shards(folder, problems)
        count = sum(entry.items for entry in unlisted)
        typer.echo(f"{len(unlisted):,} shards with {count:,} items are unlisted. Extract or import them again.")
        return
    if problems:
        typer.echo(
            "Restore the listed files from a copy, or pass --unlist-damaged and then extract or import again.", err=True
        )
        raise typer.Exit(1)
    typer.echo(f"{items:,} items in {len(manifest.shards):,} shards are intact")


def compact(
    folder: FolderArgument,
    items_per_shard: Annotated[
        int, typer.Option(min=1, help="Number of items per shard: images, captions or vectors.")
    ] = 1000,
) -> None:
    """Merge small shards and delete unreferenced rows. Open readers are not affected.

    [dim]Example: tern store compact runs/demo/stores/regions-* --items-per-shard 2000[/dim]
    """
    from data.manifest import read_store_manifest
    from data.store import compact_store
    from pipeline.progress import map_with_progress

    folder = _resolve_folder(folder)
    before = read_store_manifest(folder)
    # One process is enough: the disk limits the speed, and memory stays at the rows of two shards.
    after = compact_store(folder, items_per_shard, map_with_progress("compact"))
    (num_before, bytes_before), (num_after, bytes_after) = _measure(before), _measure(after)
    if after.generation == before.generation:
        typer.echo(f"already compact: {num_before:,} shards, {bytes_before:,} bytes")
    else:
        typer.echo(
            f"{num_before:,} shards, {bytes_before:,} bytes -> {num_after:,} shards, {bytes_after:,} bytes; "
            f"{bytes_before - bytes_after:,} bytes saved"
        )


def _measure(manifest: "StoreManifest") -> tuple[int, int]:
    """Return the number of shards of a store and their size in bytes."""
    return len(manifest.shards), sum(entry.bytes for entry in manifest.shards)


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
    """Import region features of other software into a store. The same command resumes an interrupted import.

    [dim]Examples: tern store import train2014_obj36.tsv --output runs/coco/stores --id-template "{id}.jpg"[/dim]

    [dim]tern store import cocobu --output runs/x/stores --images photos --id-template "COCO_train2014_{id:012d}.jpg"[/dim]
    """
    from data.config import ImportConfig, ReadOptions
    from data.exchange import count_images, detect_formats, import_regions
    from data.text import printable
    from pipeline.progress import progress_bar

    for option, value, choices in (
        ("--transposed", transposed, ("auto", "yes", "no")),
        ("--sizes", sizes, ("images", "boxes")),
        ("--boxes", boxes, ("file", "image")),
    ):
        if value not in choices:
            raise typer.BadParameter(f"{option} is {value!r}; it must be one of {', '.join(choices)}")
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
        typer.echo(f"format   {printable(str(path))}: {detected.name} ({detected.title})")
    with progress_bar("import", count_images(config)) as advance:
        result = import_regions(config, output, advance)
    _print_import(result)


def _print_import(result: "ImportResult") -> None:
    from data.text import printable

    records = result.invalid_records
    for location, reason in records[:MAX_INVALID_PRINTED]:
        typer.secho(f"invalid  {printable(location)}: {printable(reason)}", fg="yellow", err=True)
    if (hidden := len(records) - MAX_INVALID_PRINTED) > 0:
        typer.secho(f"invalid  {hidden:,} more; the manifest of the store lists all of them", fg="yellow", err=True)
    unchanged = f", {result.num_unchanged:,} unchanged" if result.num_unchanged else ""
    typer.echo(f"images   {result.num_imported:,} imported{unchanged}, {len(records):,} invalid")
    typer.echo(f"regions  {result.folder}")
    typer.echo(f'plan     regions_store = "{result.folder}"')


def export(
    folder: FolderArgument,
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
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Export a region store to a format of other software.

    [dim]Examples: tern store export runs/demo/stores/regions-1a2b --format lxmert-tsv --output obj36.tsv --id-template stem[/dim]

    [dim]tern store export runs/coco/stores/regions-3c4d --format tern --output coco_bu --id-template "{number}"[/dim]
    """
    from data.exchange import export_regions
    from data.store import Store
    from data.text import read_lines
    from pipeline.progress import progress_bar

    folder = _resolve_folder(folder)
    image_ids = None if ids_file is None else [line.strip("\r") for line in read_lines(ids_file) if line.strip()]
    with progress_bar("export", len(Store(folder)) if image_ids is None else len(image_ids)) as advance:
        count = export_regions(folder, output, format, id_template, image_ids, force, advance)
    typer.echo(f"{format}  {count:,} images in {output}")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the group `tern store`."""
    for command in (info, verify, compact, export):
        app.command()(command)
    app.command("import")(import_)
