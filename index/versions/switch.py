"""Verify a version, and point CURRENT at another existing one."""

from collections.abc import Mapping
from pathlib import Path

from index.versions.events import FILE, record_event
from index.versions.folder import (
    check_objects,
    list_versions,
    manifest_path,
    read_current_or_none,
    read_version_manifest,
    set_current,
)
from index.versions.index_folder import index_write_lock
from index.versions.manifest import Manifest
from index.versions.verdict import GateCheck, GateVerdict

IMPORTED = "imported"  # key in the provenance of imported vectors, whose model is unknown


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


def check_same_origin(root: Path, is_imported: bool) -> None:
    """Check that imported vectors and those of a model do not get into one index.

    An index to which both were published by an earlier version of this program takes those of a model.

    Args:
        is_imported: Whether the vectors to publish are imported.

    Raises:
        ValueError: The index has vectors of the other origin; nothing is written.
    """
    origins = []
    for number in list_versions(root):
        try:
            origins.append(read_version_manifest(root, number).provenance)
        except (ValueError, FileNotFoundError):  # damaged, or of an older schema
            continue
    of_models = [origin for origin in origins if IMPORTED not in origin]
    if is_imported and of_models:
        names = ", ".join(f"{key} {value}" for key, value in of_models[-1].items()) or "vectors that were not imported"
        raise ValueError(
            f"{root} is the index of a plan or a program ({names}), and a search of it would fail on imported vectors. "
            "Pass another folder as --output."
        )
    if not is_imported and origins and not of_models:
        raise ValueError(
            f"{root} is an index of imported vectors ({origins[-1][IMPORTED]}), whose model is unknown. Set another "
            "workspace, or move the folder to another place."
        )


def rollback(root: Path, version: int, pin: bool = True) -> Path:
    """Publish an existing version, older or newer, after verifying it; return the path of its manifest.

    Args:
        pin: Pin the version if a newer one has passed its gate: `read_pinned_version` returns it until somebody
            publishes a version.

    Raises:
        RejectedError: The gate rejected it.
        ValueError: It is of imported vectors, and the index also has those of a model.
        FileNotFoundError, ValueError: As `verify_version`.
    """
    with index_write_lock(root):
        manifest = verify_version(root, version)
        check_not_rejected(root, manifest)
        check_same_origin(root, IMPORTED in manifest.provenance)
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

    Args:
        root: Folder of the index.
        manifest: Manifest of the rejected version.
        verdict: The verdict that rejects it.
    """
    pointer = read_current_or_none(root)
    served = f"version {pointer.version} is still served" if pointer else "nothing is published"
    path = manifest_path(root, manifest.version) if verdict == manifest.gate else Path(root) / FILE
    reason = verdict.reason or "see its verdict"
    return (
        f"Version {manifest.version} did not pass its gate: {reason}. It is kept for inspection, its verdict is in "
        f"{path}; {served}."
    )
