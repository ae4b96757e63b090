"""Publish a candidate: run the gate, write the manifest under an unused number, point CURRENT at it."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from index.search.index import Index
from index.versions.events import record_event
from index.versions.folder import (
    check_objects,
    list_used_numbers,
    list_versions,
    manifest_path,
    read_current_or_none,
    read_version_manifest,
    set_current,
    write_manifest,
)
from index.versions.index_folder import index_write_lock
from index.versions.manifest import SCHEMA_VERSION, Candidate, Manifest
from index.versions.objects import Staging, fsync_objects
from index.versions.switch import (
    IMPORTED,
    RejectedError,
    check_not_rejected,
    check_same_origin,
    rejection_message,
    verify_version,
)
from index.versions.verdict import GateVerdict

OnStep = Callable[[str], None]
"""called with the name of each finished step"""
GateFn = Callable[[Index, Index | None], GateVerdict]
"""judges (candidate, served version or None)"""


def no_progress(step: str) -> None:
    """Ignore the progress."""


def override_gate(root: Path, version: int, reason: str) -> Path:
    """Publish a rejected version under a new number, with the reason in its verdict.

    Args:
        root: Folder of the index.
        version: Number of the rejected version.
        reason: Why the version is published nevertheless; the new verdict quotes it.

    Returns:
        The path of the new manifest.

    Raises:
        ValueError: The gate did not reject the version, or it does not verify.
    """
    with index_write_lock(root):
        manifest = verify_version(root, version)
        if manifest.gate is None or not manifest.is_rejected:
            raise ValueError(f"Version {version} was not rejected. Run `tern index publish {version}`.")
        check_same_origin(root, IMPORTED in manifest.provenance)
        update = {"passed": True, "override_reason": reason, "rejected_version": version}
        verdict = manifest.gate.model_copy(update=update)
        return publish_candidate(root, manifest.candidate(), lambda candidate, served: verdict)


def find_version_by_inputs(root: Path, inputs_digest: str) -> Manifest | None:
    """Return the newest version of equal inputs whose objects all verify; None without one.

    The published version is tried first.
    """
    pointer = read_current_or_none(root)
    served = pointer.version if pointer else 0
    for version in sorted(list_versions(root), key=lambda number: (number != served, -number)):
        try:
            manifest = read_version_manifest(root, version)
            if manifest.inputs_digest == inputs_digest:
                check_objects(root, manifest)
                return manifest
        except (ValueError, FileNotFoundError):
            continue  # damaged: it is built again under a new number
    return None


def build_and_publish(
    root: Path, inputs_digest: str, make: Callable[[Staging], Candidate], gate: GateFn | None, on_step: OnStep
) -> Path:
    """Publish the candidate of some inputs, built now or found from an earlier run.

    The caller holds the write lock.

    Args:
        root: Folder of the index.
        inputs_digest: Digest of everything that determines the candidate.
        make: Builds the candidate in a staging folder; called if no earlier run has built it.
        gate: Judges the candidate before it is published; None: it is not judged.
        on_step: Called with the name of each finished step.

    Returns:
        The path of the manifest.

    Raises:
        RejectedError: As `publish_candidate`.
    """
    staging, existing = Staging(root, inputs_digest), find_version_by_inputs(root, inputs_digest)
    if existing is not None and not existing.is_rejected:
        staging.remove()
        return republish(root, existing, gate, on_step)
    candidate = existing.candidate() if existing is not None else make(staging)
    try:
        path = publish_candidate(root, candidate, gate, on_step)
    except RejectedError:
        staging.remove()
        raise
    staging.remove()
    return path


def republish(root: Path, manifest: Manifest, gate: GateFn | None = None, on_step: OnStep = no_progress) -> Path:
    """Point CURRENT at a version that passed before.

    Unless it is the served version, it must pass the gate again. The caller holds the write lock.

    Args:
        root: Folder of the index.
        manifest: Manifest of the version.
        gate: Judges the version again; None: it is not judged.
        on_step: As in `build_and_publish`.

    Returns:
        The path of its manifest.

    Raises:
        RejectedError: The gate rejects it now; the later verdict is written to the event log.
    """
    pointer, number = read_current_or_none(root), manifest.version
    verdict = None
    if gate is not None and (pointer is None or pointer.version != number):
        verdict = _run_gate(root, manifest, gate)
        on_step("gated")
        if not verdict.passed:
            raise _reject_existing(root, manifest, verdict)
    if set_current(root, number):
        record_event(root, "republished", number, **({"gate": verdict} if verdict else {}))
    on_step("switched")
    return manifest_path(root, number)


def publish_candidate(
    root: Path, candidate: Candidate, gate: GateFn | None = None, on_step: OnStep = no_progress
) -> Path:
    """Run the gate on a candidate, write its manifest, and point CURRENT at it.

    The caller holds the write lock, and the objects of the candidate exist.

    Args:
        root: Folder of the index.
        candidate: Version without a number and without a verdict.
        gate: Judges the candidate; None: it is published without a verdict.
        on_step: As in `build_and_publish`.

    Returns:
        The path of the manifest.

    Raises:
        RejectedError: The gate rejects the candidate. It is kept with its verdict, and CURRENT does not change. A
            candidate that was rejected before gets no second number; its later verdict is written to the event log.
    """
    pointer = read_current_or_none(root)
    number = max(list_used_numbers(root), default=0) + 1
    manifest = Manifest(
        **dict(candidate), schema=SCHEMA_VERSION, version=number, parent=pointer.version if pointer else None, gate=None
    )
    if gate is not None:
        verdict = _run_gate(root, manifest, gate)
        manifest = manifest.model_copy(update={"gate": verdict})
        on_step("gated")
        previous = None if verdict.passed else _find_rejected(root, candidate)
        if previous is not None:
            raise _reject_existing(root, previous, verdict)
    fsync_objects(root, manifest)
    path = write_manifest(root, manifest)
    on_step("manifest")
    record_event(root, "rejected" if manifest.is_rejected else "published", number, gate=manifest.gate)
    check_not_rejected(root, manifest)
    set_current(root, number)
    on_step("switched")
    return path


def _run_gate(root: Path, manifest: Manifest, gate: GateFn) -> GateVerdict:
    with ExitStack() as stack:
        candidate = stack.enter_context(Index(root, manifest))
        try:
            served = stack.enter_context(Index.open(root, lazy=True))
        except (ValueError, FileNotFoundError):  # nothing is published, or it cannot be read: nothing to compare with
            served = None
        return gate(candidate, served)


def _reject_existing(root: Path, manifest: Manifest, verdict: GateVerdict) -> RejectedError:
    """Record a later verdict in the event log; return the error to raise.

    A manifest never changes, so the verdict cannot be added to it.
    """
    record_event(root, "rejected", manifest.version, gate=verdict)
    return RejectedError(rejection_message(root, manifest, verdict), manifest.version, verdict)


def _find_rejected(root: Path, candidate: Candidate) -> Manifest | None:
    """Return the newest rejected version with the content of a candidate."""
    for version in reversed(list_versions(root)):
        try:
            manifest = read_version_manifest(root, version)
        except (ValueError, FileNotFoundError):
            continue
        if manifest.is_rejected and manifest.candidate() == candidate:
            return manifest
    return None
