"""Candidates into versions: judged by a gate, written under a number nobody had, pointed to by one rename."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from index.search.index import Index
from index.versions.events import record_event
from index.versions.folder import (
    check_objects,
    index_write_lock,
    list_used_numbers,
    list_versions,
    manifest_path,
    read_current_or_none,
    read_version_manifest,
    set_current,
    write_manifest,
)
from index.versions.manifest import Candidate, Manifest
from index.versions.objects import Staging, fsync_objects
from index.versions.switch import RejectedError, rejection_message, verify_version

OnStep = Callable[[str], None]
GateFn = Callable[[Index, Index | None], dict[str, Any]]
"""Judges (candidate, served version or None); returns at least {"passed": bool}, and "reason" and "checks" to show."""


def no_progress(step: str) -> None:
    """Progress that nobody wants to see."""


def override_gate(root: Path, version: int, reason: str) -> Path:
    """Serve what the gate refused, as a new version whose verdict says so and why; return its manifest."""
    with index_write_lock(root):
        manifest = verify_version(root, version)
        if not manifest.is_rejected:
            raise ValueError(f"version {version} was not refused: there is nothing to override, publish it.")
        verdict = {**manifest.gate, "passed": True, "override_reason": reason, "rejected_version": version}
        return publish_candidate(root, manifest.candidate(), lambda candidate, served: verdict)


def find_version_by_inputs(root: Path, inputs: str) -> Manifest | None:
    """The newest version made of equal inputs whose every byte verifies, the published one first."""
    pointer = read_current_or_none(root)
    first = pointer["version"] if pointer else 0
    for version in sorted(list_versions(root), key=lambda number: (number != first, -number)):
        try:
            manifest = read_version_manifest(root, version)
            if manifest.inputs_digest == inputs:
                check_objects(root, manifest)
                return manifest
        except (ValueError, FileNotFoundError):
            continue  # damaged: it is made again under a new number
    return None


def build_and_publish(
    root: Path, inputs: str, make: Callable[[Staging], Candidate], gate: GateFn | None, progress: OnStep
) -> Path:
    """Publish the candidate of `inputs`, made now, or found made by an earlier run; return its manifest.

    To be called by the writer. Raises RefusedError as `publish` does.
    """
    staging, found = Staging(root, inputs), find_version_by_inputs(root, inputs)
    if found is not None and not found.is_rejected:
        staging.remove()
        return republish(root, found, gate, progress)
    candidate = found.candidate() if found is not None else make(staging)
    try:
        path = publish_candidate(root, candidate, gate, progress)
    except RejectedError:
        staging.remove()
        raise
    staging.remove()
    return path


def republish(root: Path, manifest: Manifest, gate: GateFn | None = None, progress: OnStep = no_progress) -> Path:
    """Point CURRENT at a version that passed once, if it passes now, or is the one served; return its manifest.

    To be called by the writer. Raises RefusedError as `publish` does.
    """
    pointer, number = read_current_or_none(root), manifest.version
    verdict = None
    if gate is not None and (pointer is None or pointer["version"] != number):
        verdict = _judged(root, manifest, gate)
        progress("gated")
        if not verdict["passed"]:
            _refuse_again(root, manifest, verdict)
    if set_current(root, number):
        record_event(root, "republished", number, **({"gate": verdict} if verdict else {}))
    progress("switched")
    return manifest_path(root, number)


def publish_candidate(
    root: Path, candidate: Candidate, gate: GateFn | None = None, progress: OnStep = no_progress
) -> Path:
    """Make a version of a candidate whose objects are there, judge it, and point CURRENT at it; return its manifest.

    To be called by the writer. A candidate that the gate refuses is kept with its verdict, CURRENT stays where it is,
    and RefusedError is raised; one that was refused before is judged again and gets no second number for it: its later
    verdict is in events.jsonl.
    """
    pointer = read_current_or_none(root)
    parent = pointer and pointer["version"]
    number = max(list_used_numbers(root), default=0) + 1
    make = lambda verdict: Manifest(**dict(candidate), schema=3, version=number, parent=parent, gate=verdict)  # noqa: E731
    manifest = make(None)
    if gate is not None:
        manifest = make(_judged(root, manifest, gate))
        progress("gated")
        before = _refused_before(root, candidate) if manifest.is_rejected else None
        if before is not None:
            _refuse_again(root, before, manifest.gate)
    fsync_objects(root, manifest)
    path = write_manifest(root, manifest)
    progress("manifest")
    record_event(root, "rejected" if manifest.is_rejected else "published", number, gate=manifest.gate)
    if manifest.is_rejected:
        raise RejectedError(rejection_message(manifest, root), number, manifest.gate)
    set_current(root, number)
    progress("switched")
    return path


def _judged(root: Path, manifest: Manifest, gate: GateFn) -> dict[str, Any]:
    with ExitStack() as opened:
        candidate = opened.enter_context(Index(root, manifest))
        try:
            parent = opened.enter_context(Index.open(root, lazy=True))
        except (ValueError, FileNotFoundError):  # nothing is published, or it cannot be read: nothing to compare with
            parent = None
        return gate(candidate, parent)


def _refuse_again(root: Path, manifest: Manifest, verdict: dict[str, Any]) -> NoReturn:
    """A manifest never changes: a later verdict is kept among the events."""
    record_event(root, "rejected", manifest.version, gate=verdict)
    raise RejectedError(rejection_message(manifest, root, verdict), manifest.version, verdict)


def _refused_before(root: Path, candidate: Candidate) -> Manifest | None:
    for version in reversed(list_versions(root)):
        try:
            manifest = read_version_manifest(root, version)
        except (ValueError, FileNotFoundError):
            continue
        if manifest.is_rejected and manifest.candidate() == candidate:
            return manifest
    return None
