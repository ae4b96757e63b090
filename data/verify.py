"""Every byte of a store against what was written: the files' SHA-256, the CRC of every item's rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.files import sha256_file
from data.manifest import Field, fields_of, read_manifest
from data.shard_file import check_rest, damage


def verify(
    folder: Path, manifest: dict[str, Any] | None = None, tell: Callable[[int], object] = lambda items: None
) -> list[str]:
    """Every difference between the files and what was written, naming file and item; empty if there is none.

    Works where the store cannot be opened any more. `tell` is given the number of items of each shard that is done.
    """
    manifest = manifest or read_manifest(folder)
    problems = []
    for entry in manifest["shards"]:
        problems += _problems(Path(folder) / entry["file"], entry, fields_of(manifest))
        tell(entry["items"])
    return problems


def _problems(path: Path, entry: dict[str, Any], fields: dict[str, Field]) -> list[str]:
    lost = f"{entry['items']:,} items are lost with it"
    if not path.is_file():
        return [f"{path}: missing; {lost}"]
    if (size := path.stat().st_size) != entry["bytes"]:
        return [f"{path}: {size:,} bytes, the manifest says {entry['bytes']:,}; {lost}"]
    if sha256_file(path) == entry["sha256"]:
        return []
    try:
        check_rest(path, entry)
    except ValueError:
        return [f"{path}: damaged outside its rows, so that it is not known whose they are; {lost}"]
    return damage(path, fields) or [f"{path}: its bytes are not those that the manifest names, in no item's rows"]
