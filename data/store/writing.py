"""The writing half of a store: which shards are to be made, and the manifest written last.

A shard is named by the digest of what it holds (ids and content hashes), so making it twice is harmless. A run that was
killed leaves finished shards that are not listed: the next plan adopts them, whatever the dataset has become since.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.io.files import remove_stale_temporaries, write_json
from data.io.locks import manifest_lock, write_lock
from data.manifest.manifest import MANIFEST, manifest_fields, read_store_manifest
from data.manifest.schema import Item, ShardPlan, split_into_shards
from data.store.shard_file import (
    check_metadata_crc,
    find_shard_damage,
    read_shard_entry,
    read_shard_hashes,
    read_unlisted_shard_hashes,
)


@contextmanager
def store_update(folder: Path, items: Sequence[Item], items_per_shard: int) -> Iterator[list[ShardPlan]]:
    """Gives the shards that the block has to write; after it the store lists these items, and no others.

    The block runs as the one writer of the store, unless there is nothing to do. Raises ValueError naming another.
    """
    if is_up_to_date(folder, items):
        yield []
        return
    with write_lock(folder):
        plans = plan_shards(folder, items, items_per_shard)
        yield [plan for plan in plans if not plan.existing_file]
        commit(folder, [plan.file for plan in plans], wanted=[item.id for item in items])


def plan_shards(folder: Path, items: Sequence[Item], items_per_shard: int) -> list[ShardPlan]:
    """Shards for a commit after which the store holds all `items`: those not listed, or whose content has changed.

    Finished shards of a killed run come as plans that are `made` already. Items that were set aside are asked for again
    only when their content changes. In the order of the dataset: a run that was killed commits what another would.
    """
    answered = listed_hashes(folder, read_store_manifest(folder))
    place = {item: number for number, item in enumerate(items)}
    plans = _adopt(Path(folder), place, answered)
    todo = [item for item in items if answered.get(item.id) != item.hash]
    plans += [_Placed(False, place[plan.items[0]], plan) for plan in split_into_shards(todo, items_per_shard)]
    return [placed.plan for placed in sorted(plans, key=lambda placed: (not placed.stale, placed.first))]


def is_up_to_date(folder: Path, items: Sequence[Item]) -> bool:
    """Whether the store lists these items, with this content, and no others: then there is nothing to write."""
    manifest = read_store_manifest(folder)
    answered = listed_hashes(folder, manifest)
    extra = set(answered) - {item.id for item in items}
    return all(answered.get(item.id) == item.hash for item in items) and manifest["removed_ids"] == sorted(extra)


def listed_hashes(folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """Id -> hash of the content that the manifest answers for: the newest shard that names an id speaks for it."""
    newest: dict[str, str] = {}
    for shard in manifest["shards"]:
        check_metadata_crc(Path(folder) / shard["file"], shard)
        newest.update(read_shard_hashes(Path(folder) / shard["file"]))
    newest.update({entry["id"]: entry["hash"] for entry in manifest["invalid_items"]})
    return newest


@dataclass(frozen=True)
class _Placed:
    stale: bool  # it also holds older content of items of the dataset, so that it must come before what is newer
    first: int  # place in the dataset of the first item that it is wanted for
    plan: ShardPlan


def unlisted_shards(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    """Shards of the folder that the manifest does not name."""
    listed = {shard["file"] for shard in manifest["shards"]}
    return [path for path in sorted(Path(folder).glob("shard-*.h5")) if path.name not in listed]


def _adopt(folder: Path, place: dict[Item, int], answered: dict[str, str]) -> list[_Placed]:
    """Whole shards that are not listed and hold what is wanted; `answered` grows by what they hold."""
    manifest = read_store_manifest(folder)
    wanted = {item.id: item.hash for item in place}
    found = []
    for path in unlisted_shards(folder, manifest):
        held = _readable_answers(path)
        places = [place[item] for item in (Item(*pair) for pair in held.items()) if item in place]
        if places:
            found.append((min(places), path, held))
    adopted = []
    for first, path, held in sorted(found):
        useful = any(wanted.get(name) == value != answered.get(name) for name, value in held.items())
        older = {name for name, value in held.items() if name in wanted and wanted[name] != value}
        spoils = any(answered.get(name) == wanted[name] for name in older)  # it would speak for what is right already
        if useful and not spoils and not find_shard_damage(path, manifest_fields(manifest)):
            answered.update(held)
            adopted.append(_Placed(bool(older), first, ShardPlan((), existing_file=path.name)))
    return adopted


def _readable_answers(path: Path) -> dict[str, str]:
    try:
        return read_unlisted_shard_hashes(path)
    except (OSError, ValueError, KeyError):  # it is made again
        return {}


def commit(folder: Path, files: Iterable[str], wanted: Iterable[str] | None = None) -> dict[str, Any]:
    """List finished shards in the manifest (the next generation) and return it; nothing new leaves it as it is.

    `wanted`: ids that the dataset has now; others disappear from the listing, and come back without work if the data
    set has them again. Without it none disappears. The manifest is read, extended and written under a lock.
    """
    with manifest_lock(folder):
        remove_stale_temporaries(folder)
        old = read_store_manifest(folder)
        aside = {entry["id"]: entry for entry in old["invalid_items"]}
        shards = {shard["file"]: shard for shard in old["shards"]}
        dropped = set(old["removed_ids"])
        for name in dict.fromkeys(files):
            entry, ids, entries = read_shard_entry(Path(folder) / name)
            shards.pop(name, None)
            shards[name] = entry  # last: the newest shard that names an id speaks for it
            for found in ids:
                aside.pop(found, None)  # readable now: its new content replaces the old verdict
            aside.update({bad["id"]: bad for bad in entries})
            dropped -= {*ids, *(bad["id"] for bad in entries)}
        content = {"shards": list(shards.values()), "invalid_items": list(aside.values())}
        if wanted is not None:
            dropped = set(listed_hashes(folder, content)) - set(wanted)
        return write_next_manifest(folder, old, {**content, "removed_ids": sorted(dropped)})


def write_next_manifest(folder: Path, old: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Write the next generation of a manifest, if it says anything new; to be called under the `listing` lock."""
    if all(old[key] == value for key, value in content.items()):
        return old
    new = {**old, **content, "generation": old["generation"] + 1}
    listed = {shard["file"] for shard in new["shards"]}
    new["replaced_files"] = [
        name for name in new["replaced_files"] if name not in listed and (Path(folder) / name).exists()
    ]
    write_json(Path(folder) / MANIFEST, new)
    return new
