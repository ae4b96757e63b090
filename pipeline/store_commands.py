"""`tern store ...`: look at feature stores, check them, put them in order, exchange them with other software."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
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
            typer.echo(f"{name:<12} {value}")


def _folder(path: Path) -> Path:
    return path.parent if path.name == "manifest.json" else path


def _facts(store: "Store") -> Iterator[tuple[str, str]]:
    shards, aside, dropped = store.manifest["shards"], store.set_aside, store.manifest["dropped"]
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
        cut = int((store.read("whole", store.ids) > store.lengths(store.ids)).sum())
        yield "cut", f"{cut:,} captions had more wordpieces than are kept"
    yield "set aside", f"{len(aside):,}"
    yield from (("", f"{name}: {reason}") for name, reason in list(aside.items())[:SHOWN])
    yield "dropped", f"{len(dropped):,}" + (" that the data set no longer has" if dropped else "")
    for number, (key, value) in enumerate(store.recipe.items()):
        yield "" if number else "recipe", f"{key} = {_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > SHOWN:
        return f"{len(value):,} names: {', '.join(map(str, value[:3]))}, ..."
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


@app.command()
def verify(folder: FolderArgument) -> None:
    """Check every byte against what was written; what is damaged is named by file and image.

    [dim]Example: tern store verify runs/demo/stores/regions-*[/dim]
    """
    from data.manifest import read_manifest
    from data.verify import verify as problems_of
    from pipeline.workers import bar

    manifest = read_manifest(_folder(folder))
    items = sum(entry["items"] for entry in manifest["shards"])
    with bar("verify", items) as advance:
        problems = problems_of(_folder(folder), manifest, advance)
    for problem in problems:
        typer.secho(problem, fg="red")
    if problems:
        typer.echo("Restore the files named from a copy, or delete the store's folder and extract again.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{items:,} items in {len(manifest['shards']):,} shards are as they were written")


@app.command()
def compact(
    folder: FolderArgument,
    items_per_shard: Annotated[
        int, typer.Option("--items", min=1, help="Items a shard: images, captions or vectors.")
    ] = 1000,
) -> None:
    """Join small shards, and let go of rows that are no longer listed. Readers are not disturbed.

    [dim]Example: tern store compact runs/demo/stores/regions-* --items 2000[/dim]
    """
    from data.compact import compact as compacted
    from data.manifest import read_manifest
    from pipeline.workers import in_processes

    place = _folder(folder)
    before = read_manifest(place)
    # One process: the disk is what it waits for, and the rows of two shards are all the memory it takes.
    after = compacted(place, items_per_shard, in_processes(1, "compact"))
    (shards, size), (now, left) = _size(before), _size(after)
    if after["generation"] == before["generation"]:
        typer.echo(f"compact already: {shards:,} shards, {size:,} bytes")
    else:
        typer.echo(f"{shards:,} shards, {size:,} bytes -> {now:,} shards, {left:,} bytes; {size - left:,} bytes saved")


def _size(manifest: dict[str, Any]) -> tuple[int, int]:
    """Shards, and bytes in them."""
    return len(manifest["shards"]), sum(entry["bytes"] for entry in manifest["shards"])
