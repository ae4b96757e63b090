"""Every byte of a store against what was written: the files' SHA-256, the CRC of every item's rows."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.io.digests import sha256_file
from data.io.files import fsync_path
from data.io.locks import manifest_lock, write_lock
from data.manifest.manifest import manifest_fields, read_store_manifest
from data.manifest.schema import Field
from data.store.shard_file import Problem, check_metadata_crc, find_shard_damage, read_shard_items
from data.store.writing import write_next_manifest

UNREAD = "; nobody reads them any more: `tern store compact` lets go of them"


def verify_store(
    folder: Path, manifest: dict[str, Any] | None = None, on_progress: Callable[[int], object] = lambda items: None
) -> list[str]:
    """Every difference between the files and what was written, naming file and item; empty if there is none.

    Works where the store cannot be opened any more. `tell` is given the number of items of each shard that is done.
    """
    return [str(problem) for problem in find_problems(folder, manifest or read_store_manifest(folder), on_progress)]


def find_problems(
    folder: Path, manifest: dict[str, Any], tell: Callable[[int], object] = lambda items: None
) -> list[Problem]:
    """`verify`, for a caller that goes by file and item. Of rows that nobody reads any more the text says so."""
    found = []
    for entry in manifest["shards"]:
        found += _problems(Path(folder) / entry["file"], entry, manifest_fields(manifest))
        tell(entry["items"])
    broken = {problem.path.name for problem in found if not problem.item}
    read = _read_from(Path(folder), manifest, broken) if len(broken) < len(found) else {}
    unread = lambda problem: problem.item and read.get(problem.item) != problem.path.name  # noqa: E731
    return [replace(problem, message=problem.message + UNREAD) if unread(problem) else problem for problem in found]


def _read_from(folder: Path, manifest: dict[str, Any], broken: set[str]) -> dict[str, str]:
    """Id -> the file that its rows are read from: the newest that has it."""
    newest: dict[str, str] = {}
    for name in (entry["file"] for entry in manifest["shards"] if entry["file"] not in broken):
        newest |= dict.fromkeys(read_shard_items(folder / name)[0], name)
    gone = {*manifest["removed_ids"], *(entry["id"] for entry in manifest["invalid_items"])}
    return {item: name for item, name in newest.items() if item not in gone}


def unlist_damaged_shards(folder: Path, found: Iterable[Problem]) -> list[dict[str, Any]]:
    """Unlist the shards in which rows are lost, so that the next run makes again what they held; returns their entries.

    The files are kept beside, as `shard-....h5.damaged`. An item that an older shard has too is read from that one
    until the next run. Rows that nobody reads are left to a compaction. Raises ValueError naming another writer.
    """
    folder, names = Path(folder), {problem.path.name for problem in found if not problem.message.endswith(UNREAD)}
    with write_lock(folder), manifest_lock(folder):
        old = read_store_manifest(folder)
        lost = [entry for entry in old["shards"] if entry["file"] in names]
        for path in (folder / entry["file"] for entry in lost):
            if path.exists():  # before the manifest: a crash leaves a shard that is missing, to be dropped again
                os.replace(path, path.with_name(f"{path.name}.damaged"))
        fsync_path(folder)
        write_next_manifest(folder, old, {"shards": [entry for entry in old["shards"] if entry["file"] not in names]})
    return lost


def _problems(path: Path, entry: dict[str, Any], fields: dict[str, Field]) -> list[Problem]:
    lost = f"{entry['items']:,} items are lost with it"
    if not path.is_file():
        return [Problem(path, f"missing; {lost}")]
    if (size := path.stat().st_size) != entry["bytes"]:
        return [Problem(path, f"{size:,} bytes, the manifest says {entry['bytes']:,}; {lost}")]
    if sha256_file(path) == entry["sha256"]:
        return []
    try:
        check_metadata_crc(path, entry)
    except ValueError:
        return [Problem(path, f"damaged outside its rows, so that it is not known whose they are; {lost}")]
    return find_shard_damage(path, fields) or [
        Problem(path, "its bytes are not those that the manifest names, in no item's rows")
    ]
