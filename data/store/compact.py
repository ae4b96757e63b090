"""Join many small shards into full ones, and let go of rows that nobody can ask for any more."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data.io.files import fsync_path, remove_stale_temporaries
from data.io.locks import manifest_lock, write_lock
from data.manifest.manifest import read_store_manifest
from data.manifest.schema import Item, ShardPlan, split_into_shards
from data.store.shard_file import compute_crc32, read_shard_entry, read_unlisted_shard_hashes, write_shard
from data.store.store import Store
from data.store.writing import listed_hashes, unlisted_shards, write_next_manifest


@dataclass(frozen=True)
class CompactJob:
    """One full shard to be made out of the rows of a store."""

    folder: Path
    generation: int
    plan: ShardPlan

    @property
    def num_items(self) -> int:
        """Items, for the progress bar."""
        return len(self.plan.items)


def compact_store(
    folder: Path,
    items_per_shard: int,
    map_fn: Callable[[Callable[[CompactJob], str], Iterable[CompactJob]], Iterable[str]] = map,
) -> dict[str, Any]:
    """Rewrite the items that are listed, in their order, into full shards; dropped and superseded rows go.

    Nothing is lost at any moment: the new shards are written beside the old ones, one manifest lists them, then the old
    files are removed. Finished shards of an extraction that was killed stay, for it to go on with. A store that is
    compact is left as it is. Memory: two shards. Returns the manifest.

    Raises ValueError naming file and item where rows are damaged, or the process that is writing to the store.
    """
    folder = Path(folder)
    if items_per_shard < 1:
        raise ValueError(f"items_per_shard is {items_per_shard}; a shard holds 1 item or more.")
    with write_lock(folder):
        remove_stale_temporaries(folder)
        manifest = read_store_manifest(folder)
        with Store(folder, manifest) as store:
            items = [Item(*pair) for pair in zip(store.ids, store.content_hashes(store.ids), strict=True)]
        if _wasteful(manifest, len(items), items_per_shard):
            jobs = [
                CompactJob(folder, manifest["generation"], plan) for plan in split_into_shards(items, items_per_shard)
            ]
            try:
                manifest = _switch(folder, manifest, list(map_fn(write_compacted_shard, jobs)))
            finally:
                _source.cache_clear()  # its descriptors would keep the old files' space
        _remove_old(folder, manifest)
    return manifest


def write_compacted_shard(job: CompactJob) -> str:
    """Make one full shard; returns its file name."""
    return write_shard(job.folder, job.plan, _rows(_source(job.folder, job.generation), job.plan))


@lru_cache(maxsize=1)
def _source(folder: Path, generation: int) -> Store:
    return Store(folder)


def _rows(store: Store, plan: ShardPlan) -> Iterator[dict[str, np.ndarray]]:
    ids = [item.id for item in plan.items]
    for name, expected in zip(ids, store.checksums(ids), strict=True):
        values = {field: store.read(field, [name]) for field in store.fields}
        values |= {field: values[field][0] for field, about in store.fields.items() if about.per == "item"}
        if compute_crc32(values, store.fields) != expected:  # a new checksum would make damaged rows good for ever
            raise ValueError(
                f"{store.shard_path(name)}: the rows of {name} do not have the checksum they were written with; restore "
                "the file, or delete the store's folder and extract again. Nothing was changed."
            )
        yield values


def _wasteful(manifest: dict[str, Any], living: int, items_per_shard: int) -> bool:
    """Whether there are rows without a reader, or more shards than needed."""
    stored = sum(entry["items"] for entry in manifest["shards"])
    return stored > living or len(manifest["shards"]) > -(-living // items_per_shard) or bool(manifest["removed_ids"])


def _switch(folder: Path, old: dict[str, Any], files: list[str]) -> dict[str, Any]:
    """List the new shards in place of the old ones, by one write."""
    gone = set(old["removed_ids"])
    with manifest_lock(folder):
        if read_store_manifest(folder)["generation"] != old["generation"]:
            raise ValueError(f"{folder} was changed while it was compacted; nothing is lost: run it again.")
        content = {
            "shards": [read_shard_entry(folder / name)[0] for name in files],
            "invalid_items": [entry for entry in old["invalid_items"] if entry["id"] not in gone],
            "removed_ids": [],
            "replaced_files": [*old["replaced_files"], *(entry["file"] for entry in old["shards"])],
        }
        return write_next_manifest(folder, old, content)


def _remove_old(folder: Path, manifest: dict[str, Any]) -> None:
    """Remove retired shards, and those of which nothing is wanted; a killed extraction's shards are still its own."""
    known = listed_hashes(folder, manifest)
    for path in unlisted_shards(folder, manifest):
        if path.name in manifest["replaced_files"] or not _is_work(path, known):
            path.unlink(missing_ok=True)
    fsync_path(folder)


def _is_work(path: Path, known: dict[str, str]) -> bool:
    try:
        return any(known.get(name) != value for name, value in read_unlisted_shard_hashes(path).items())
    except ValueError:  # it is damaged: it would be made again
        return False
    except OSError:  # a fault of the machine says nothing of the file
        return True
