"""Update a store: which shards must be written, and the next manifest, which is written last.

A shard's name is the digest of its items (ids and content hashes), so writing it twice is harmless. An interrupted run
leaves finished shards that no manifest lists; the next plan adopts those that hold current content.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from data.manifest.schema import Item, RowSource, ShardPlan, split_into_shards
from data.store.shard_file import (
    check_metadata_crc,
    find_shard_damage,
    read_shard_entry,
    read_shard_hashes,
    read_shard_items,
    read_unlisted_shard_hashes,
)

SHARD_NAME = re.compile(r"shard-[0-9a-f]{12}\.h5")  # as `ShardPlan.file` makes it: nothing else is read or deleted


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


def plan_shards(
    folder: Path, items: Sequence[Item], items_per_shard: int, is_copied: Callable[[str], bool] | None = None
) -> list[ShardPlan]:
    """Plan the shards that a commit must add so that the store holds all items with their current content.

    Plans follow the order of the dataset, so that a resumed run commits the same manifest as an uninterrupted one.
    Invalid items are planned again only if their content has changed.

    Args:
        folder: Folder of the store.
        items: All items that the store must hold, in the order of the dataset.
        items_per_shard: Maximum number of items per new shard; at least 1.
        is_copied: Whether the rows of items with this content hash depend on nothing else, so that those of a second
            item are copied; None copies no rows.

    Returns:
        One plan per shard; those with an `existing_file` were finished by an interrupted run.
    """
    manifest = read_store_manifest(folder)
    hashes = listed_hashes(folder, manifest)
    positions = {item: position for position, item in enumerate(items)}
    plans = _adopt_shards(Path(folder), positions, hashes)
    missing = [item for item in items if hashes.get(item.id) != item.hash]
    files = [*(shard.file for shard in manifest.shards), *(plan.plan.existing_file for plan in plans)]
    copied = {item.hash for item in missing if is_copied is not None and is_copied(item.hash)}
    sources = _find_sources([Path(folder) / file for file in files], copied) if copied else {}
    new_plans = _plan_missing(missing, items_per_shard, copied, sources)
    plans += [_OrderedPlan(False, positions[plan.items[0]], plan) for plan in new_plans]
    return [ordered.plan for ordered in sorted(plans, key=lambda plan: (not plan.has_old_content, plan.position))]


def _find_sources(paths: Iterable[Path], hashes: Collection[str]) -> dict[str, RowSource]:
    """Find the rows of contents in shards, also those of removed items and of older contents."""
    return {
        value: RowSource(path.name, name)
        for path in paths
        for name, value in zip(*read_shard_items(path), strict=True)
        if value in hashes
    }


def _plan_missing(
    missing: Sequence[Item], items_per_shard: int, copied: Collection[str], sources: Mapping[str, RowSource]
) -> list[ShardPlan]:
    """Plan the shards of missing items: those to compute, and those whose rows are copied.

    Args:
        missing: Items that the store does not have.
        items_per_shard: Maximum number of items per shard.
        copied: Content hashes whose rows are computed once at most.
        sources: Rows that exist, by content hash.
    """
    first_items: dict[str, Item] = {}
    for item in missing:
        first_items.setdefault(item.hash, item)
    copies = {
        item: None
        for item in missing
        if item.hash in copied and (item.hash in sources or first_items[item.hash] != item)
    }
    computed_plans = split_into_shards([item for item in missing if item not in copies], items_per_shard)
    new_sources = {
        item.hash: RowSource(file, item.id)
        for file, plan in ((plan.file, plan) for plan in computed_plans)  # the name is a digest of all items
        for item in plan.items
    }
    all_sources = {**new_sources, **sources}
    copy_sources = [all_sources[item.hash] for item in copies]
    return [*computed_plans, *split_into_shards([*copies], items_per_shard, copy_sources)]


def is_up_to_date(folder: Path, items: Sequence[Item]) -> bool:
    """Return whether the store lists exactly these items with this content."""
    manifest = read_store_manifest(folder)
    hashes = listed_hashes(folder, manifest)
    removed = tuple(sorted(set(hashes) - {item.id for item in items}))
    return all(hashes.get(item.id) == item.hash for item in items) and manifest.removed_ids == removed


def listed_hashes(folder: Path, manifest: StoreManifest) -> dict[str, str]:
    """Read id -> content hash of everything that a manifest lists: the newest shard of an id decides."""
    return _read_hashes(folder, manifest.shards, manifest.invalid_items)


def _read_hashes(folder: Path, shards: Iterable[ShardEntry], invalid_items: Iterable[InvalidItem]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for shard in shards:
        check_metadata_crc(Path(folder) / shard.file, shard)
        hashes.update(read_shard_hashes(Path(folder) / shard.file))
    hashes.update({item.id: item.hash for item in invalid_items})
    return hashes


@dataclass(frozen=True)
class _OrderedPlan:
    has_old_content: bool  # such a shard must be listed before those with newer content of the same items
    position: int  # in the dataset, of the first item that the shard is needed for
    plan: ShardPlan


def unlisted_shards(folder: Path, manifest: StoreManifest) -> list[Path]:
    """List the shards in the folder that the manifest does not list, by the form of their names."""
    listed = {shard.file for shard in manifest.shards}
    paths = sorted(Path(folder).glob("shard-*.h5"))
    return [path for path in paths if SHARD_NAME.fullmatch(path.name) and path.name not in listed]


def _adopt_shards(folder: Path, positions: Mapping[Item, int], hashes: dict[str, str]) -> list[_OrderedPlan]:
    """Plan the undamaged, unlisted shards that hold missing content; add what they hold to `hashes`."""
    manifest = read_store_manifest(folder)
    current = {item.id: item.hash for item in positions}
    candidates = []
    for path in unlisted_shards(folder, manifest):
        shard_hashes = _read_hashes_or_nothing(path)
        places = [positions[item] for item in (Item(*pair) for pair in shard_hashes.items()) if item in positions]
        old_ids = {name for name, value in shard_hashes.items() if name in current and current[name] != value}
        if places:
            # Those with old content are adopted first, and listed first: then newer content of their items replaces it.
            candidates.append((not old_ids, min(places), path, shard_hashes, old_ids))
    adopted = []
    for _, first, path, shard_hashes, old_ids in sorted(candidates, key=lambda candidate: candidate[:3]):
        is_needed = any(current.get(name) == value != hashes.get(name) for name, value in shard_hashes.items())
        # Listed last, the shard would replace current content by its older content.
        is_harmful = any(hashes.get(name) == current[name] for name in old_ids)
        if is_needed and not is_harmful and not find_shard_damage(path, manifest.fields()):
            hashes.update(shard_hashes)
            adopted.append(_OrderedPlan(bool(old_ids), first, ShardPlan((), existing_file=path.name)))
    return adopted


def _read_hashes_or_nothing(path: Path) -> dict[str, str]:
    try:
        return read_unlisted_shard_hashes(path)
    except (OSError, ValueError, KeyError):  # the items are extracted again
        return {}


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
            removed = set(_read_hashes(folder, shards.values(), invalid_items.values())) - set(dataset_ids)
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
