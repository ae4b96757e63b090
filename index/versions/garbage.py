"""Garbage collection: versions that nobody needs, then objects that no version names."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from data.io import fsync_path
from index.versions.events import record_event
from index.versions.folder import (
    index_write_lock,
    list_used_numbers,
    list_versions,
    manifest_path,
    read_current,
    read_version_manifest,
)
from index.versions.manifest import Manifest
from index.versions.objects import iter_refs, object_path
from index.versions.reader_lock import is_in_use
from index.versions.tags import list_tags

KEEP = 2  # served versions that stay: the one that is served, and one to roll back to


@dataclass
class GarbageReport:
    """What was removed (or would be), and why the other versions were spared."""

    versions: list[int] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    objects: int = 0
    bytes: int = 0


def collect_garbage(root: Path, keep: int = KEEP, dry_run: bool = False) -> GarbageReport:
    """Remove what no reader can want; everything that is spared stays whole, whenever this is killed.

    Spared are the version that CURRENT names, tagged ones, those that a reader has open, the newest number (numbers
    are never given twice), the last `keep` that passed, and those refused since. Unfinished work is thrown away.

    Raises ValueError if a manifest cannot be read: what it names cannot be told from garbage.
    """
    root = Path(root)
    if keep < 1:
        raise ValueError(f"keep is {keep}; the version that is served always stays: give 1 or more.")
    with index_write_lock(root):
        manifests = {number: read_version_manifest(root, number) for number in list_versions(root)}
        found = GarbageReport(kept=_spared(root, manifests, keep))
        for number in manifests.keys() - found.kept.keys():
            if is_in_use(manifest_path(root, number), remove=not dry_run):
                found.kept[number] = "open"
            else:
                found.versions.append(number)
        if found.versions and not dry_run:
            fsync_path(root / "versions")
        found.versions.sort()
        needed = {object_path(root, ref) for number in found.kept for ref in iter_refs(manifests[number])}
        garbage = [path for path in root.glob("objects/*/*") if path not in needed]
        found.objects, found.bytes = len(garbage), sum(path.stat().st_size for path in garbage)
        if not dry_run:
            for path in garbage:
                path.unlink()
            shutil.rmtree(root / "staging", ignore_errors=True)
            facts = {"removed": found.versions, "objects": found.objects, "bytes": found.bytes}
            record_event(root, "garbage_collected", None, **facts)
    return found


def _spared(root: Path, manifests: dict[int, Manifest], keep: int) -> dict[int, str]:
    pointer = read_current(root)
    served = pointer["version"] if pointer else 0
    passed = sorted(number for number, manifest in manifests.items() if not manifest.is_rejected)
    why = {number: "refused since" for number, m in manifests.items() if m.is_rejected and number > served}
    why |= dict.fromkeys(passed[-keep:], f"one of the last {keep}")
    why |= {number: "newest" for number in list_used_numbers(root)[-1:] if number in manifests and number not in why}
    why |= {number: f"tagged {name}" for name, number in list_tags(root).items() if number in manifests}
    return why | ({served: "served"} if served in manifests else {})
