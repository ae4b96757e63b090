"""Verify a version, and point CURRENT at another existing one."""

from collections.abc import Mapping
from pathlib import Path

from index.versions.events import FILE, record_event
from index.versions.folder import (
    check_objects,
    index_write_lock,
    list_versions,
    manifest_path,
    read_current_or_none,
    read_version_manifest,
    set_current,
)
from index.versions.manifest import GateCheck, GateVerdict, Manifest


class RejectedError(ValueError):
    """The gate rejected a candidate.

    Attributes:
        version: Number of the rejected version.
        verdict: Verdict of the gate.
    """

    def __init__(self, message: str, version: int, verdict: GateVerdict):
        super().__init__(message)
        self.version, self.verdict = version, verdict

    @property
    def checks(self) -> Mapping[str, GateCheck]:
        """The checks of the verdict by name."""
        return self.verdict.checks


def verify_version(root: Path, version: int | None = None) -> Manifest:
    """Compare every object of a version (None: the published one) with its manifest; return the manifest.

    Raises:
        FileNotFoundError: The manifest or an object is missing.
        ValueError: The manifest or an object is damaged or of another index.
    """
    manifest = read_version_manifest(root, version)
    check_objects(root, manifest)
    return manifest


def check_not_rejected(root: Path, manifest: Manifest) -> None:
    """Raise RejectedError if the gate rejected a version."""
    if manifest.gate is not None and manifest.is_rejected:
        raise RejectedError(rejection_message(root, manifest, manifest.gate), manifest.version, manifest.gate)


def rollback(root: Path, version: int, pin: bool = True) -> Path:
    """Publish an existing version, older or newer, after verifying it; return the path of its manifest.

    Args:
        pin: Pin the version if a newer one has passed its gate: `read_pinned_version` returns it until somebody
            publishes a version.

    Raises:
        RejectedError: The gate rejected it.
        FileNotFoundError, ValueError: As `verify_version`.
    """
    with index_write_lock(root):
        check_not_rejected(root, verify_version(root, version))
        set_current(root, version, pin and _has_newer_accepted(root, version))
        record_event(root, "rolled_back", version)
    return manifest_path(root, version)


def _has_newer_accepted(root: Path, version: int) -> bool:
    """Return whether a version above a number has passed its gate."""
    for number in reversed(list_versions(root)):
        try:
            if number > version and not read_version_manifest(root, number).is_rejected:
                return True
        except (ValueError, FileNotFoundError):
            continue  # damaged: it can neither be published nor derived from
    return False


def rejection_message(root: Path, manifest: Manifest, verdict: GateVerdict) -> str:
    """Describe why a version was rejected.

    The reason is in the verdict of its manifest, or in a later one of the event log.
    """
    pointer = read_current_or_none(root)
    served = f"version {pointer.version} is still served" if pointer else "nothing is published"
    path = manifest_path(root, manifest.version) if verdict == manifest.gate else Path(root) / FILE
    reason = verdict.reason or "see its verdict"
    return (
        f"Version {manifest.version} did not pass its gate: {reason}. It is kept for inspection, its verdict is in "
        f"{path}; {served}."
    )
