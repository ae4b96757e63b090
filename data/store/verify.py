"""Compare every byte of a store with what was written: SHA-256 of the files, CRC-32 of each item's rows."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from data.io.digests import sha256_file
from data.io.files import fsync_path
from data.io.locks import manifest_lock, write_lock
from data.manifest.manifest import ShardEntry, StoreManifest, read_store_manifest
from data.manifest.schema import Field
from data.store.shard_file import Problem, check_metadata_crc, find_shard_damage, read_shard_items
from data.store.writing import write_next_manifest

UNREFERENCED = "; these rows are unreferenced. Delete them with `tern store compact`"


def verify_store(
    folder: Path, manifest: StoreManifest | None = None, on_progress: Callable[[int], object] = lambda num_items: None
) -> list[str]:
    """Compare all files of a store with what was written; works for stores that cannot be opened any more.

    Args:
        folder: Folder of the store.
        manifest: Manifest to compare with; None reads the present one.
        on_progress: Called after each shard with the number of its items.

    Returns:
        One line per difference, with file and item.
    """
    return [str(problem) for problem in find_problems(folder, manifest or read_store_manifest(folder), on_progress)]


def find_problems(
    folder: Path, manifest: StoreManifest, on_progress: Callable[[int], object] = lambda num_items: None
) -> list[Problem]:
    """Find the differences that `verify_store` reports; the message says so if the rows are unreferenced.

    Args:
        folder: Folder of the store.
        manifest: Its manifest.
        on_progress: Called after each shard with its number of items.
    """
    problems = []
    for entry in manifest.shards:
        problems += _find_file_problems(Path(folder) / entry.file, entry, manifest.fields())
        on_progress(entry.items)
    unreadable = {problem.path.name for problem in problems if not problem.item}
    files = _find_item_files(Path(folder), manifest, unreadable) if len(unreadable) < len(problems) else {}
    return [_mark_unreferenced(problem, files) for problem in problems]


def _mark_unreferenced(problem: Problem, files: dict[str, str]) -> Problem:
    if problem.item and files.get(problem.item) != problem.path.name:
        return replace(problem, message=problem.message + UNREFERENCED)
    return problem


def _find_item_files(folder: Path, manifest: StoreManifest, unreadable: set[str]) -> dict[str, str]:
    """Map ids to the name of the file that their rows are read from: the newest readable one with the id."""
    files: dict[str, str] = {}
    for name in (entry.file for entry in manifest.shards if entry.file not in unreadable):
        files |= dict.fromkeys(read_shard_items(folder / name)[0], name)
    unlisted = {*manifest.removed_ids, *(item.id for item in manifest.invalid_items)}
    return {item: name for item, name in files.items() if item not in unlisted}


def unlist_damaged_shards(folder: Path, problems: Iterable[Problem]) -> list[ShardEntry]:
    """Remove damaged shards from the manifest, so that the next run extracts their items again.

    The files are kept as `shard-....h5.damaged`. Until the next run, an item that an older shard has is read from that
    shard. Damage of unreferenced rows changes nothing.

    Args:
        folder: Folder of the store.
        problems: Problems that `find_problems` returned.

    Returns:
        The entries that the manifest no longer has.

    Raises:
        WriteLockError: Another process writes to the store.
    """
    folder = Path(folder)
    damaged = {problem.path.name for problem in problems if not problem.message.endswith(UNREFERENCED)}
    read_store_manifest(folder)  # before the lock writes a file: the folder may be something else
    with write_lock(folder), manifest_lock(folder):
        old = read_store_manifest(folder)
        removed = [entry for entry in old.shards if entry.file in damaged]
        for path in (folder / entry.file for entry in removed):
            if path.exists():  # before the manifest: after a crash the shard is missing, and is unlisted the next time
                os.replace(path, _free_name(path))
        fsync_path(folder)
        write_next_manifest(folder, old, shards=tuple(entry for entry in old.shards if entry.file not in damaged))
    return removed


def _free_name(path: Path) -> Path:
    """Return the name that a damaged shard is kept under: it may have been damaged before."""
    names = (path.with_name(f"{path.name}.damaged{suffix}") for suffix in ("", *(f"-{i}" for i in range(2, 10_000))))
    return next(name for name in names if not name.exists())


def _find_file_problems(path: Path, entry: ShardEntry, fields: Mapping[str, Field]) -> list[Problem]:
    loss = f"{entry.items:,} items are lost with it"
    if not path.is_file():
        return [Problem(path, f"missing; {loss}")]
    if (size := path.stat().st_size) != entry.bytes:
        return [Problem(path, f"{size:,} bytes, but the manifest has {entry.bytes:,}; {loss}")]
    if sha256_file(path) == entry.sha256:
        return []
    try:
        check_metadata_crc(path, entry)
    except ValueError:
        return [Problem(path, f"damaged outside its rows, so that rows cannot be assigned to items; {loss}")]
    return find_shard_damage(path, fields) or [
        Problem(path, "its SHA-256 is not that of the manifest, although the rows of all items are intact")
    ]
