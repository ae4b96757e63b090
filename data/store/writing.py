"""Update a store: plan its shards, and list them in the next manifest, which is written last."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.io.files import remove_stale_temporaries
from data.io.locks import manifest_lock, write_lock
from data.manifest.manifest import (
    InvalidItem,
    ShardEntry,
    StoreManifest,
    read_store_manifest,
    write_store_manifest,
)
from data.manifest.schema import Item, ShardPlan
from data.store.planning import is_up_to_date, plan_shards, read_hashes
from data.store.shard_file import read_shard_entry


@dataclass(frozen=True)
class ShardJob:
    """Work for one shard of a store; picklable, so that any `map_fn` can send it to another process."""

    folder: Path
    """Folder of the store."""
    plan: ShardPlan

    @property
    def num_items(self) -> int:
        """Return the number of items of the shard, for progress bars."""
        return len(self.plan.items)


@contextmanager
def store_update(
    folder: Path, items: Sequence[Item], items_per_shard: int, is_copied: Callable[[str], bool] | None = None
) -> Iterator[list[ShardPlan]]:
    """Update a store so that it lists exactly these items.

    Holds the write lock unless there is nothing to do.

    Args:
        folder: Folder of the store.
        items: All items of the dataset, with their current content hashes.
        items_per_shard: Maximum number of items in a new shard.
        is_copied: As in `plan_shards`.

    Yields:
        Plans of the shards that the block must write: those with `sources` last, by `copy_shard`.

    Raises:
        WriteLockError: Another process writes to the store.
    """
    if is_up_to_date(folder, items):
        yield []
        return
    with write_lock(folder):
        plans = plan_shards(folder, items, items_per_shard, is_copied)
        yield sorted((plan for plan in plans if not plan.existing_file), key=lambda plan: bool(plan.sources))
        commit(folder, [plan.file for plan in plans], dataset_ids=[item.id for item in items])


def commit(folder: Path, files: Iterable[str], dataset_ids: Iterable[str] | None = None) -> StoreManifest:
    """List finished shards in the next generation of the manifest, under the manifest lock.

    Args:
        folder: Folder of the store.
        files: File names of the shards, oldest first.
        dataset_ids: All ids of the dataset; other ids become `removed_ids`, and return without work if the dataset
            has them again. None removes no id.

    Returns:
        The new manifest, or the old one if nothing has changed.
    """
    with manifest_lock(folder):
        remove_stale_temporaries(folder)
        old = read_store_manifest(folder)
        invalid_items = {item.id: item for item in old.invalid_items}
        shards = {shard.file: shard for shard in old.shards}
        removed = set(old.removed_ids)
        for name in dict.fromkeys(files):
            entry, ids, invalid = read_shard_entry(Path(folder) / name)
            shards.pop(name, None)
            shards[name] = entry  # last: the newest shard that has an id decides
            for item_id in ids:
                invalid_items.pop(item_id, None)  # valid now
            invalid_items.update({item.id: item for item in invalid})
            removed -= {*ids, *(item.id for item in invalid)}
        if dataset_ids is not None:
            removed = set(read_hashes(folder, shards.values(), invalid_items.values())) - set(dataset_ids)
        return write_next_manifest(
            folder,
            old,
            shards=tuple(shards.values()),
            invalid_items=tuple(invalid_items.values()),
            removed_ids=tuple(sorted(removed)),
        )


def write_next_manifest(
    folder: Path,
    old: StoreManifest,
    *,
    shards: tuple[ShardEntry, ...] | None = None,
    invalid_items: tuple[InvalidItem, ...] | None = None,
    removed_ids: tuple[str, ...] | None = None,
    replaced_files: tuple[str, ...] | None = None,
) -> StoreManifest:
    """Write the next generation of a manifest if a value changes; requires the manifest lock.

    Args:
        folder: Folder of the store.
        old: The present manifest.
        shards: New value of the field of this name; None keeps the old one, as for the following arguments.
        invalid_items: New value of the field.
        removed_ids: New value of the field.
        replaced_files: New value of the field; names of files that no longer exist are left out.

    Returns:
        The new manifest, or `old` if it has these values already.
    """
    new = StoreManifest(
        kind=old.kind,
        recipe=old.recipe,
        dtype=old.dtype,
        generation=old.generation,
        shards=old.shards if shards is None else shards,
        invalid_items=old.invalid_items if invalid_items is None else invalid_items,
        removed_ids=old.removed_ids if removed_ids is None else removed_ids,
        replaced_files=old.replaced_files if replaced_files is None else replaced_files,
    )
    if new == old:
        return old
    listed = {shard.file for shard in new.shards}
    existing = tuple(f for f in new.replaced_files if f not in listed and (Path(folder) / f).exists())
    new = new.model_copy(update={"generation": old.generation + 1, "replaced_files": existing})
    write_store_manifest(folder, new)
    return new
