"""Commands of `tern store` that inspect and maintain a feature store: `info`, `verify` and `compact`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.options import StoreArgument, resolve_store_folder
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from data.manifest import StoreManifest
    from data.store import Store


MAX_REMOVED_FRACTION = 0.2  # of the items; more of them usually means that a disk was not mounted
MAX_SHOWN = 5  # reasons of invalid items, and entries of a list in a recipe


def info(folder: StoreArgument) -> None:
    """Print what a store contains.

    [dim]Example: tern store info runs/demo/stores/regions-*[/dim]
    """
    from data.store import Store

    with Store(resolve_store_folder(folder)) as store:
        for name, value in _describe_store(store):
            echo(f"{name:<13} {value}")


def _describe_store(store: "Store") -> Iterator[tuple[str, str]]:
    from data.store import count_truncated, count_unknown

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
        yield "truncated", f"{count_truncated(store, store.ids):,} captions have more tokens than the store holds"
        yield "unknown", f"{count_unknown(store, store.ids):,} captions have no token that the tokenizer knows"
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
    folder: StoreArgument,
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
    from pipeline.progress import progress_bar

    folder = resolve_store_folder(folder)
    manifest = read_store_manifest(folder)
    items = sum(entry.items for entry in manifest.shards)
    with progress_bar("verify", items) as advance:
        problems = find_problems(folder, manifest, advance)
    for problem in problems:
        echo(str(problem), color="red")
    if problems and unlist_damaged:
        unlisted = unlist_damaged_shards(folder, problems)
        count = sum(entry.items for entry in unlisted)
        echo(f"{len(unlisted):,} shards with {count:,} items are unlisted. Extract or import them again.")
        return
    if problems:
        echo(
            "Restore the listed files from a copy, or pass --unlist-damaged and then extract or import again.", err=True
        )
        raise typer.Exit(1)
    echo(f"{items:,} items in {len(manifest.shards):,} shards are intact")


def compact(
    folder: StoreArgument,
    items_per_shard: Annotated[
        int, typer.Option(min=1, help="Number of items per shard: images, captions or vectors.")
    ] = 1000,
    force: Annotated[
        bool, typer.Option("--force", help="Delete removed items even if they are more than 20 % of the store.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted and change nothing.")] = False,
) -> None:
    """Merge small shards and delete unreferenced rows. Open readers are not affected.

    The rows of items that the dataset no longer has are deleted for good.

    [dim]Examples: tern store compact runs/demo/stores/regions-* --dry-run
    tern store compact runs/demo/stores/regions-* --items-per-shard 2000[/dim]
    """
    from data.manifest import read_store_manifest
    from data.store import check_removed_fraction, compact_store, list_foreign_files
    from data.text import printable
    from pipeline.progress import map_with_progress

    folder = resolve_store_folder(folder)
    before = read_store_manifest(folder)
    removed = before.removed_ids
    examples = ", ".join(map(printable, removed[:MAX_SHOWN])) + (", ..." if len(removed) > MAX_SHOWN else "")
    echo(f"removed items: {len(removed):,}" + (f" ({examples})" if removed else ""))
    for path in list_foreign_files(folder):
        echo(f"kept: {path.name} is not a shard of the store")
    maximum = 1.0 if force else MAX_REMOVED_FRACTION
    if dry_run:
        check_removed_fraction(before, maximum)
        return
    # One process is enough: the disk limits the speed, and memory stays at the rows of two shards.
    after = compact_store(folder, items_per_shard, map_with_progress("compact"), maximum)
    (num_before, bytes_before), (num_after, bytes_after) = _measure(before), _measure(after)
    if after.generation == before.generation:
        echo(f"already compact: {num_before:,} shards, {bytes_before:,} bytes")
    else:
        echo(
            f"{num_before:,} shards, {bytes_before:,} bytes -> {num_after:,} shards, {bytes_after:,} bytes; "
            f"{bytes_before - bytes_after:,} bytes saved"
        )


def _measure(manifest: "StoreManifest") -> tuple[int, int]:
    """Return the number of shards of a store and their size in bytes."""
    return len(manifest.shards), sum(entry.bytes for entry in manifest.shards)


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the group `tern store`."""
    for command in (info, verify, compact):
        app.command()(command)
