"""Garbage collection: delete versions that are no longer needed, then objects that no manifest lists."""

from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from data.io import fsync_path
from index.versions.events import record_event
from index.versions.folder import (
    list_used_numbers,
    list_versions,
    manifest_path,
    read_current,
    read_version_manifest,
)
from index.versions.index_folder import check_is_index, index_write_lock
from index.versions.manifest import Manifest
from index.versions.objects import iter_refs, list_objects, list_staged, object_path, remove_staged
from index.versions.reader_lock import is_in_use
from index.versions.tags import list_tags

KEEP = 2  # versions that passed and stay: the served one, and one to roll back to


@dataclass
class GarbageReport:
    """What garbage collection deleted (or would delete), and why it kept the other versions."""

    versions: list[int] = field(default_factory=list)
    """deleted versions, ascending"""
    kept: dict[int, str] = field(default_factory=dict)
    """reason by version"""
    objects: int = 0
    """number of deleted objects"""
    bytes: int = 0
    """size of the deleted objects"""
    staged: list[Path] = field(default_factory=list)
    """deleted files of unfinished builds"""
    foreign: list[Path] = field(default_factory=list)
    """files below `objects` and `staging` that are not files of an index, and are kept"""


def collect_garbage(root: Path, keep: int = KEEP, dry_run: bool = False) -> GarbageReport:
    """Delete versions that are no longer needed, unreferenced objects and unfinished work.

    Kept are the served version, tagged versions, versions that a reader has open, the newest number (numbers are
    never used twice), the last `keep` versions that passed their gate, and versions rejected after the served one.
    A kill at any moment leaves all kept versions complete. Files whose names do not have the form of an object or of a
    staged file are kept and reported.

    Args:
        keep: Number of versions that passed and stay, at least 1.
        dry_run: Only report what would be deleted.

    Raises:
        FileNotFoundError: The folder is not an index, or a version that CURRENT or a tag names is missing; nothing is
            deleted.
        ValueError: `keep` is below 1, or a manifest cannot be read and its objects are therefore unknown.
    """
    root = Path(root)
    if keep < 1:
        raise ValueError(f"keep is {keep}, but the served version always stays. Pass 1 or more.")
    check_is_index(root)
    with nullcontext() if dry_run else index_write_lock(root):  # the lock is a file, and a dry run writes nothing
        manifests = {number: read_version_manifest(root, number) for number in list_versions(root)}
        _check_named_versions(root, manifests)
        report = GarbageReport(kept=_find_kept(root, manifests, keep))
        for number in manifests.keys() - report.kept.keys():
            if is_in_use(manifest_path(root, number), remove=not dry_run):
                report.kept[number] = "open in a reader"
            else:
                report.versions.append(number)
        if report.versions and not dry_run:
            fsync_path(root / "versions")
        report.versions.sort()
        needed = {object_path(root, ref) for number in report.kept for ref in iter_refs(manifests[number])}
        objects, staged = list_objects(root), list_staged(root)
        garbage = [path for path in objects.own if path not in needed]
        report.objects, report.bytes = len(garbage), sum(path.stat().st_size for path in garbage)
        report.staged, report.foreign = staged.own, objects.foreign + staged.foreign
        if not dry_run:
            for path in garbage:
                path.unlink()
            remove_staged(staged.own)
            with suppress(OSError):  # absent, or it has files of somebody else
                (root / "staging").rmdir()
            facts = {"removed": report.versions, "objects": report.objects, "bytes": report.bytes}
            record_event(root, "garbage_collected", None, **facts)
    return report


def _check_named_versions(root: Path, manifests: dict[int, Manifest]) -> None:
    """Raise FileNotFoundError if a version that CURRENT or a tag names is missing: its objects would be deleted."""
    pointer = read_current(root)
    named = {"CURRENT": pointer.version} if pointer else {}
    named |= {f"the tag {name}": number for name, number in list_tags(root).items()}
    for name, number in named.items():
        if number not in manifests:
            raise FileNotFoundError(
                f"{name[0].upper()}{name[1:]} names version {number}, but {manifest_path(root, number)} is missing, so "
                "that its files look like garbage. Restore the manifest, or publish another version or "
                "remove the tag."
            )


def _find_kept(root: Path, manifests: dict[int, Manifest], keep: int) -> dict[int, str]:
    """Return the versions that stay, each with the strongest reason."""
    pointer = read_current(root)
    served = pointer.version if pointer else 0
    passed = sorted(number for number, manifest in manifests.items() if not manifest.is_rejected)
    reasons = {n: "rejected after the served version" for n, m in manifests.items() if m.is_rejected and n > served}
    reasons |= dict.fromkeys(passed[-keep:], f"one of the last {keep} that passed")
    newest = [number for number in list_used_numbers(root)[-1:] if number in manifests and number not in reasons]
    reasons |= dict.fromkeys(newest, "newest number")
    reasons |= {number: f"tagged {name}" for name, number in list_tags(root).items() if number in manifests}
    return reasons | ({served: "served"} if served in manifests else {})
