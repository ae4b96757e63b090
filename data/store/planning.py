"""Plan the update of a store: which shards must be computed, copied, or adopted from an interrupted run.

A shard's name is the digest of its items (ids and content hashes), so writing it twice is harmless. An interrupted run
leaves finished shards that no manifest lists; the next plan adopts those that hold current content.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.manifest.manifest import InvalidItem, ShardEntry, StoreManifest, read_store_manifest
from data.manifest.schema import Item, RowSource, ShardPlan, split_into_shards
from data.store.shard_file import (
    check_metadata_crc,
    find_shard_damage,
    read_shard_hashes,
    read_shard_items,
    read_unlisted_shard_hashes,
)

SHARD_NAME = re.compile(r"shard-[0-9a-f]{12}\.h5")  # as `ShardPlan.file` makes it: nothing else is read or deleted


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
    new_sources = {item.hash: RowSource(plan.file, item.id) for plan in computed_plans for item in plan.items}
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
    return read_hashes(folder, manifest.shards, manifest.invalid_items)


def read_hashes(folder: Path, shards: Iterable[ShardEntry], invalid_items: Iterable[InvalidItem]) -> dict[str, str]:
    """Read id -> content hash of some shards, oldest first, and of invalid items."""
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
        if places:
            candidates.append((min(places), path, shard_hashes))
    adopted = []
    for first, path, shard_hashes in sorted(candidates):
        is_needed = any(current.get(name) == value != hashes.get(name) for name, value in shard_hashes.items())
        old_content = {name for name, value in shard_hashes.items() if name in current and current[name] != value}
        # Listed last, the shard would replace current content by its older content.
        is_harmful = any(hashes.get(name) == current[name] for name in old_content)
        if is_needed and not is_harmful and not find_shard_damage(path, manifest.fields()):
            hashes.update(shard_hashes)
            adopted.append(_OrderedPlan(bool(old_content), first, ShardPlan((), existing_file=path.name)))
    return adopted


def _read_hashes_or_nothing(path: Path) -> dict[str, str]:
    try:
        return read_unlisted_shard_hashes(path)
    except (OSError, ValueError, KeyError):  # the items are extracted again
        return {}
