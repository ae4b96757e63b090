"""`tern store ...`: look at feature stores, check them, put them in order, exchange them with other software."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.text import printable

if TYPE_CHECKING:
    from data.exchange import ImportResult
    from data.store import Store


app = typer.Typer(help="Feature stores: look at them, check them, exchange them.", no_args_is_help=True)
FolderArgument = Annotated[
    Path, typer.Argument(help="A store's folder, for instance runs/demo/stores/regions-..., or its manifest.json.")
]
SHOWN = 5  # reasons, and entries of a list in a recipe


@app.command()
def info(folder: FolderArgument) -> None:
    """What a store holds. [dim]Example: tern store info runs/demo/stores/regions-*[/dim]"""
    from data.store import Store

    with Store(_folder(folder)) as store:
        for name, value in _facts(store):
            typer.echo(f"{name:<12} {printable(value)}")


def _folder(path: Path) -> Path:
    return path.parent if path.name == "manifest.json" else path


def _facts(store: "Store") -> Iterator[tuple[str, str]]:
    shards, aside, dropped = store.manifest["shards"], store.invalid_items, store.manifest["removed_ids"]
    yield "store", str(store.folder)
    yield "kind", f"{store.kind}, generation {store.generation}"
    rows = int(store.lengths(store.ids).sum())
    yield "items", f"{len(store):,}, of {rows:,} rows"
    if len(store):
        yield "features", f"{store.dim:,} x {store.manifest['dtype']}"
    superseded = sum(entry["items"] for entry in shards) - len(store)
    waste = f", {superseded:,} items in them are not listed: `tern store compact`" if superseded else ""
    yield "shards", f"{len(shards):,}, {sum(entry['bytes'] for entry in shards):,} bytes{waste}"
    if store.kind == "tokens" and len(store):
        cut = int((store.read("full_length", store.ids) > store.lengths(store.ids)).sum())
        yield "cut", f"{cut:,} captions had more wordpieces than are kept"
    yield "set aside", f"{len(aside):,}"
    yield from (("", f"{name}: {reason}") for name, reason in list(aside.items())[:SHOWN])
    yield "removed_ids", f"{len(dropped):,}" + (" that the dataset no longer has" if dropped else "")
    for number, (key, value) in enumerate(store.recipe.items()):
        yield "" if number else "recipe", f"{key} = {_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > SHOWN:
        return f"{len(value):,} names: {', '.join(map(str, value[:3]))}, ..."
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


@app.command()
def verify(
    folder: FolderArgument,
    unlist_damaged: Annotated[
        bool, typer.Option("--unlist-damaged", help="Unlist what is damaged: the next run makes it again.")
    ] = False,
) -> None:
    """Check every byte against what was written; what is damaged is named by file and image.

    [dim]Example: tern store verify runs/demo/stores/regions-*[/dim]
    """
    from data.manifest import read_store_manifest
    from data.store import find_problems as problems_of
    from data.store import unlist_damaged_shards as unlist
    from pipeline.runs.progress import progress_bar

    manifest = read_store_manifest(_folder(folder))
    items = sum(entry["items"] for entry in manifest["shards"])
    with progress_bar("verify", items) as advance:
        problems = problems_of(_folder(folder), manifest, advance)
    for problem in problems:
        typer.secho(printable(str(problem)), fg="red")
    if problems and unlist_damaged:
        lost = unlist(_folder(folder), problems)
        count = sum(entry["items"] for entry in lost)
        typer.echo(f"{len(lost):,} shards of {count:,} items are no longer listed: extract, or import, them again")
        return
    if problems:
        typer.echo(
            "Restore the files named from a copy; or pass --unlist-damaged, then extract or import again.", err=True
        )
        raise typer.Exit(1)
    typer.echo(f"{items:,} items in {len(manifest['shards']):,} shards are as they were written")


@app.command()
def compact(
    folder: FolderArgument,
    items_per_shard: Annotated[int, typer.Option(min=1, help="Items a shard: images, captions or vectors.")] = 1000,
) -> None:
    """Join small shards, and let go of rows that are no longer listed. Readers are not disturbed.

    [dim]Example: tern store compact runs/demo/stores/regions-* --items-per-shard 2000[/dim]
    """
    from data.manifest import read_store_manifest
    from data.store import compact_store as compacted
    from pipeline.runs.workers import make_process_map

    place = _folder(folder)
    before = read_store_manifest(place)
    # One process: the disk is what it waits for, and the rows of two shards are all the memory it takes.
    after = compacted(place, items_per_shard, make_process_map(1, "compact"))
    (shards, size), (now, left) = _size(before), _size(after)
    if after["generation"] == before["generation"]:
        typer.echo(f"compact already: {shards:,} shards, {size:,} bytes")
    else:
        typer.echo(f"{shards:,} shards, {size:,} bytes -> {now:,} shards, {left:,} bytes; {size - left:,} bytes saved")


def _size(manifest: dict[str, Any]) -> tuple[int, int]:
    """Shards, and bytes in them."""
    return len(manifest["shards"]), sum(entry["bytes"] for entry in manifest["shards"])


@app.command("import")
def import_(
    sources: Annotated[list[Path], typer.Argument(help="Files, or folders of a file an image.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder of stores; the store's own folder is made below it.")],
    format: Annotated[str, typer.Option(help="Format (docs/reference/region-formats.md); auto detects it.")] = "auto",
    id_template: Annotated[
        str, typer.Option(help="How ids become image ids: {id}, {stem}, {number} (its last digits), {number:012d}.")
    ] = "{id}",
    name: Annotated[str, typer.Option(help="Of the features: imports of one name grow one store.")] = "",
    float16: Annotated[
        bool, typer.Option("--float16", help="Half precision: half the disk, and no longer bit for bit.")
    ] = False,
    images: Annotated[Path | None, typer.Option(help="Photographs, for formats without image sizes.")] = None,
    sizes: Annotated[
        str, typer.Option(help="images; or boxes: the image ends where its last box does (a guess).")
    ] = "images",
    boxes: Annotated[
        str, typer.Option(help="file; or image: every row is given the whole image, if there are none.")
    ] = "file",
    transposed: Annotated[str, typer.Option(help="yes, no or auto: x of a npz is (width, rows).")] = "auto",
    feature_arrays: Annotated[str, typer.Option(help="Of a .npz of flat rows: arrays that are the feature, A,B.")] = "",
    normalize: Annotated[bool, typer.Option("--normalize", help="Each of these arrays to unit length.")] = False,
    allow_pickle: Annotated[
        list[str] | None, typer.Option(help="An array that may be a pickle of plain values: info. Repeatable.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="Text, a line a class: what class ids stand for.")] = None,
    attributes: Annotated[Path | None, typer.Option(help="Text, a line an attribute.")] = None,
    images_per_shard: Annotated[int, typer.Option(min=1, help="Memory is one shard.")] = 500,
) -> None:
    """Region features of other software into a store; stopped and run again, it goes on.

    [dim]Examples: tern store import train2014_obj36.tsv --output runs/coco/stores --id-template "{id}.jpg"[/dim]

    [dim]tern store import cocobu --output runs/x/stores --images photos --id-template "COCO_train2014_{id:012d}.jpg"[/dim]
    """
    from data.config import ImportConfig, ReadOptions
    from data.exchange import count_images, detect_formats, import_regions
    from pipeline.runs.progress import progress_bar

    for option, value, choices in (
        ("--transposed", transposed, ("auto", "yes", "no")),
        ("--sizes", sizes, ("images", "boxes")),
        ("--boxes", boxes, ("file", "image")),
    ):
        if value not in choices:
            raise typer.BadParameter(f"{option} is {value!r}; it may be {', '.join(choices)}")
    turned = {"auto": None, "yes": True, "no": False}[transposed]
    named = tuple(part for part in feature_arrays.split(",") if part)
    config = ImportConfig(
        sources=tuple(sources),
        format=format,
        name=name,
        id_template=id_template,
        float16=float16,
        images=images,
        sizes=sizes,  # type: ignore[arg-type]
        boxes=boxes,  # type: ignore[arg-type]
        options=ReadOptions(turned, named, normalize, tuple(allow_pickle or ())),
        classes=classes,
        attributes=attributes,
        images_per_shard=images_per_shard,
    )
    for path, kind in zip(config.sources, detect_formats(config), strict=True):
        typer.echo(f"format   {printable(str(path))}: {kind.name} ({kind.title})")
    with progress_bar("import", count_images(config)) as advance:
        made = import_regions(config, output, advance)
    _print_import(made)


def _print_import(made: "ImportResult") -> None:
    for place, reason in made.invalid_records[:20]:
        typer.secho(f"set aside  {printable(place)}: {printable(reason)}", fg="yellow", err=True)
    if len(made.invalid_records) > 20:
        typer.secho(
            f"set aside  {len(made.invalid_records) - 20:,} more; the store's manifest lists them",
            fg="yellow",
            err=True,
        )
    known = f", {made.num_unchanged:,} were there already" if made.num_unchanged else ""
    typer.echo(f"images   {made.num_imported:,} imported{known}, {len(made.invalid_records):,} set aside")
    typer.echo(f"regions  {made.folder}")
    typer.echo(f'plan     regions_store = "{made.folder}"')


@app.command()
def export(
    folder: FolderArgument,
    output: Annotated[Path, typer.Option(help="File, or folder of a file an image, to write.")],
    format: Annotated[str, typer.Option(help="Format, such as lxmert-tsv (docs/reference/region-formats.md).")],
    id_template: Annotated[
        str, typer.Option(help="How image ids are written: {id}, stem (no suffix), {number} (the last digits).")
    ] = "{id}",
    only: Annotated[
        Path | None, typer.Option("--ids-file", help="Text, a line an image id: only these, in this order.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
) -> None:
    """A region store in a format of other software.

    [dim]Examples: tern store export runs/demo/stores/regions-1a2b --format lxmert-tsv --output obj36.tsv --id-template stem[/dim]

    [dim]tern store export runs/coco/stores/regions-3c4d --format tern --output coco_bu --id-template "{number}"[/dim]
    """
    from data.exchange import export_regions
    from data.store import Store
    from data.text import read_lines
    from pipeline.runs.progress import progress_bar

    folder = _folder(folder)
    chosen = None if only is None else [line.strip("\r") for line in read_lines(only) if line.strip()]
    with progress_bar("export", len(Store(folder)) if chosen is None else len(chosen)) as advance:
        count = export_regions(folder, output, format, id_template, chosen, force, advance)
    typer.echo(f"{format}  {count:,} images in {output}")
