"""Merge small shards of a store into full ones, and delete unreferenced rows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data.io.files import fsync_path, remove_stale_temporaries
from data.io.locks import manifest_lock, write_lock
from data.manifest.manifest import StoreManifest, read_store_manifest
from data.manifest.schema import Item, split_into_shards
from data.store.intact import iter_intact_columns
from data.store.shard_file import read_shard_entry, read_unlisted_shard_hashes
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import SHARD_NAME, ShardJob, listed_hashes, unlisted_shards, write_next_manifest


@dataclass(frozen=True)
class CompactJob(ShardJob):
    """One full shard to write from the rows of the same store."""

    generation: int
    """Generation of the manifest that the rows are read from."""


def compact_store(
    folder: Path,
    items_per_shard: int,
    map_fn: Callable[[Callable[[CompactJob], str], Iterable[CompactJob]], Iterable[str]] = map,
    max_removed_fraction: float = 1.0,
) -> StoreManifest:
    """Rewrite the listed items, in their order, into full shards, and delete removed and superseded rows.

    The old shards are deleted only after one manifest lists all new ones, so an interruption loses no data. Finished
    shards of an interrupted extraction are kept for its next run, and so is every file that is not a shard of this
    program. A compact store is not changed. Needs memory for two shards.

    Args:
        folder: Folder of the store.
        items_per_shard: Number of items in a full shard; at least 1.
        map_fn: Function with the signature of the built-in `map`, applied to the jobs.
        max_removed_fraction: Maximum fraction of the items that the dataset no longer has and that are deleted.

    Returns:
        The manifest after compaction.

    Raises:
        FileNotFoundError: The folder is not a store; nothing in it is touched.
        ValueError: More items than `max_removed_fraction` would be deleted, rows are damaged (the message has file and
            item), or the store changed meanwhile.
        WriteLockError: Another process writes to the store.
    """
    folder = Path(folder)
    if items_per_shard < 1:
        raise ValueError(f"items_per_shard is {items_per_shard}; it must be at least 1.")
    read_store_manifest(folder)  # before the lock writes a file: the folder may be something else
    with write_lock(folder):
        remove_stale_temporaries(folder)
        manifest = read_store_manifest(folder)
        check_removed_fraction(manifest, max_removed_fraction)
        with Store(folder, manifest) as store:
            items = [Item(*pair) for pair in zip(store.ids, store.content_hashes(store.ids), strict=True)]
        if _needs_compaction(manifest, len(items), items_per_shard):
            plans = split_into_shards(items, items_per_shard)
            jobs = [CompactJob(folder, plan, manifest.generation) for plan in plans]
            try:
                manifest = _replace_shards(folder, manifest, list(map_fn(write_compacted_shard, jobs)))
            finally:
                _open_source.cache_clear()  # open descriptors would keep the disk space of the deleted files
        _delete_unreferenced_files(folder, manifest)
    return manifest


def check_removed_fraction(manifest: StoreManifest, maximum: float) -> None:
    """Raise ValueError if a compaction would delete a larger fraction of the items than `maximum`."""
    removed = len(manifest.removed_ids)
    # Superseded rows count as items too, so that the fraction is a lower bound.
    total = sum(entry.items for entry in manifest.shards) + len(manifest.invalid_items)
    if removed > maximum * total:
        raise ValueError(
            f"{removed:,} of {total:,} items are no longer in the dataset, more than {maximum:.0%}, and their rows "
            "would be deleted for good. If the dataset was not complete at the last run, run `tern extract` first; "
            "else pass --force."
        )


def list_foreign_files(folder: Path) -> list[Path]:
    """List the files that are named like shards but not by this program; nothing deletes them."""
    return [path for path in sorted(Path(folder).glob("shard-*.h5")) if not SHARD_NAME.fullmatch(path.name)]


def write_compacted_shard(job: CompactJob) -> str:
    """Write one full shard, and return its file name."""
    store, ids = _open_source(job.folder, job.generation), [item.id for item in job.plan.items]
    return write_shard(job.folder, job.plan, iter_intact_columns(store, ids))


@lru_cache(maxsize=1)
def _open_source(folder: Path, generation: int) -> Store:
    return Store(folder)


def _needs_compaction(manifest: StoreManifest, num_items: int, items_per_shard: int) -> bool:
    """Return whether there are unreferenced rows, or more shards than needed."""
    num_stored = sum(entry.items for entry in manifest.shards)
    max_shards = -(-num_items // items_per_shard)
    return num_stored > num_items or len(manifest.shards) > max_shards or bool(manifest.removed_ids)


def _replace_shards(folder: Path, old: StoreManifest, files: list[str]) -> StoreManifest:
    """List the new shards in place of the old ones, by one write."""
    removed = set(old.removed_ids)
    with manifest_lock(folder):
        if read_store_manifest(folder).generation != old.generation:
            raise ValueError(f"{folder} changed during compaction; no data was lost. Run the command again.")
        return write_next_manifest(
            folder,
            old,
            shards=tuple(read_shard_entry(folder / name)[0] for name in files),
            invalid_items=tuple(item for item in old.invalid_items if item.id not in removed),
            removed_ids=(),
            replaced_files=(*old.replaced_files, *(entry.file for entry in old.shards)),
        )


def _delete_unreferenced_files(folder: Path, manifest: StoreManifest) -> None:
    """Delete replaced shards and unlisted ones without new content.

    An interrupted extraction keeps its shards.
    """
    known_hashes = listed_hashes(folder, manifest)
    for path in unlisted_shards(folder, manifest):
        if path.name in manifest.replaced_files or not _has_new_content(path, known_hashes):
            path.unlink(missing_ok=True)
    fsync_path(folder)


def _has_new_content(path: Path, known_hashes: dict[str, str]) -> bool:
    try:
        return any(known_hashes.get(name) != value for name, value in read_unlisted_shard_hashes(path).items())
    except ValueError:  # a damaged shard is not adopted: its items are extracted again
        return False
    except OSError:  # a transient I/O error does not mean that the file is damaged
        return True
