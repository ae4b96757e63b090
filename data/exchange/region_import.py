"""Import region features of other software into a store, record by record, with one shard in memory."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.config import ImportConfig
from data.exchange.import_recipe import detect_formats, get_feature_dtype, make_import_recipe
from data.exchange.record_items import ItemConverter, ItemRow, name_record
from data.formats.base import Format
from data.io.limits import MAX_SHARD_BYTES
from data.io.locks import manifest_lock, write_lock
from data.manifest.manifest import open_or_create_store, read_store_manifest
from data.manifest.schema import Item, ShardPlan
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit, write_next_manifest
from data.text import escape_invalid_text

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ImportResult:
    """Result of an import."""

    folder: Path
    """Folder of the store."""
    formats: tuple[str, ...]
    """Name of the format of each source."""
    num_imported: int
    """Number of images that this import stored."""
    num_unchanged: int
    """Number of images that the store had before, with equal content."""
    num_replaced: int
    """Number of the imported images that the store had before, with other content."""
    invalid_records: tuple[tuple[str, str], ...]
    """(name and location, reason) of each invalid record."""
    warnings: tuple[str, ...]
    """One line per kind of value that the files cannot mean, such as boxes between 0 and 1."""


def import_regions(
    config: ImportConfig, root: Path, progress: Progress = lambda _: None, stop_after: int | None = None
) -> ImportResult:
    """Read the sources into a region store below `root`, shard by shard, with one shard in memory.

    An interrupted import is resumed by the next one. An invalid record (broken base64, a cut line, NaN, a duplicate id)
    is listed with its location and the reason, and the import continues.

    Args:
        config: Sources and settings.
        root: Folder of the stores.
        progress: Called after each record with 1.
        stop_after: Number of shards after which the import stops, for tests of interruptions; None imports everything.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: A source cannot be read, or has no valid record.
        WriteLockError: Another process writes to the store.
    """
    formats = detect_formats(config)
    folder = open_or_create_store(root, "regions", make_import_recipe(config, formats), get_feature_dtype(config))
    with write_lock(folder):
        return _import_records(config, formats, folder, progress, stop_after)


def _import_records(
    config: ImportConfig, formats: list[Format], folder: Path, progress: Progress, stop_after: int | None
) -> ImportResult:
    store, pending = Store(folder), deque[tuple[Item, ItemRow]]()
    stored_hashes = _read_stored_hashes(store)
    num_imported = num_unchanged = num_replaced = num_shards = pending_bytes = 0
    invalid: list[tuple[str, str]] = []
    converter = ItemConverter(config, formats, store.dim if len(store) else None)
    for item, row in converter.iter_items():
        progress(1)
        is_valid = not isinstance(row, str)
        if isinstance(row, str):
            invalid.append((item.id, row))
        if stored_hashes.get(item.id) == item.hash:
            num_unchanged += is_valid
            continue
        num_imported += is_valid
        num_replaced += is_valid and item.id in store
        pending.append((item, row))
        pending_bytes += sum(values.nbytes for values in row.values()) if not isinstance(row, str) else 0
        if len(pending) == config.images_per_shard or pending_bytes >= MAX_SHARD_BYTES:
            if num_shards == stop_after:
                break
            _write_pending(folder, pending)
            num_shards, pending_bytes = num_shards + 1, 0
    if pending and num_shards != stop_after:
        _write_pending(folder, pending)
    if stop_after is None:
        _forget_fixed_items(folder, config, {name for name, _ in invalid}, converter.location_by_id)
    if not num_imported + num_unchanged:
        raise ValueError(_describe_failure(config, invalid))
    return ImportResult(
        folder=folder,
        formats=tuple(kind.name for kind in formats),
        num_imported=num_imported,
        num_unchanged=num_unchanged,
        num_replaced=num_replaced,
        invalid_records=tuple(invalid),
        warnings=converter.plausibility.warnings(),
    )


def _describe_failure(config: ImportConfig, invalid: list[tuple[str, str]]) -> str:
    sources = ", ".join(map(str, config.sources))
    reason = f"The first record, {invalid[0][0]}: {invalid[0][1]}." if invalid else "There is no record."
    return f"{sources}: no valid record could be imported. {reason}"


def _forget_fixed_items(
    folder: Path, config: ImportConfig, invalid_names: set[str], location_by_id: dict[str, str]
) -> None:
    """Remove invalid items of earlier imports that are valid now from the manifest.

    If `config.name` is set, the store may have other sources. Their items stay, unless this import read the record.
    """
    valid_names = {
        escape_invalid_text(name)
        for image_id, location in location_by_id.items()
        for name in (name_record(image_id, location), location)
    }
    with manifest_lock(folder):
        old = read_store_manifest(folder)
        invalid_items = tuple(
            item
            for item in old.invalid_items
            if item.id in invalid_names or (config.name and item.id not in valid_names)
        )
        write_next_manifest(folder, old, invalid_items=invalid_items)


def _read_stored_hashes(store: Store) -> dict[str, str]:
    """Return id -> content hash of the items of the store, invalid ones included."""
    hashes = dict(zip(store.ids, store.content_hashes(store.ids), strict=True))
    return hashes | {item.id: item.hash for item in store.manifest.invalid_items}


def _write_pending(folder: Path, pending: deque[tuple[Item, ItemRow]]) -> None:
    """Write the pending items as one shard and list it; rows leave the queue one by one to save memory."""
    plan = ShardPlan(tuple(item for item, _ in pending))
    commit(folder, [write_shard(folder, plan, (pending.popleft()[1] for _ in range(len(pending))))])
    pending.clear()  # if an interrupted run had finished the shard, its rows were not read


def find_missing_images(store: Store, ids: list[str]) -> dict[str, str]:
    """Return id -> reason of the images that have no rows in a store, or no size, without which boxes mean nothing."""
    invalid = store.invalid_items
    reasons = {name.rpartition(" (")[0]: reason for name, reason in invalid.items()} | invalid
    missing = {name: reasons.get(name, f"not in the store {store.folder}") for name in ids if name not in store}
    stored = [name for name in ids if name in store]
    for name, (width, height) in zip(stored, store.read("size", stored), strict=True):
        if min(width, height) < 1:  # of a store that an older version of this program wrote
            missing[name] = f"its size in the store {store.folder} is {width}x{height} pixels"
    return missing
