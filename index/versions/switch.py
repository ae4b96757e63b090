"""Switch of `index`."""

from pathlib import Path
from typing import Any

from index.versions.events import FILE, record_event
from index.versions.folder import (
    check_objects,
    index_write_lock,
    manifest_path,
    read_current_or_none,
    read_version_manifest,
    set_current,
)
from index.versions.manifest import Manifest


class RejectedError(ValueError):
    """A candidate did not pass its gate: `version` is its number, `verdict` what the gate said, `checks` its part."""

    def __init__(self, message: str, version: int, verdict: dict[str, Any]):
        super().__init__(message)
        self.version, self.verdict, self.checks = version, verdict, verdict.get("checks")


def verify_version(root: Path, version: int | None = None) -> Manifest:
    """Compare every object of a version (default: the published one) with its manifest, which is returned.

    Raises FileNotFoundError or ValueError naming the first that is missing, damaged or foreign.
    """
    manifest = read_version_manifest(root, version)
    check_objects(root, manifest)
    return manifest


def rollback(root: Path, version: int) -> Path:
    """Point CURRENT at another version, older or newer, if it verifies and was not refused; return its manifest."""
    with index_write_lock(root):
        manifest = verify_version(root, version)
        if manifest.is_rejected:
            raise RejectedError(rejection_message(manifest, root), version, manifest.gate)
        set_current(root, version)
        record_event(root, "rolled_back", version)
    return manifest_path(root, version)


def rejection_message(manifest: Manifest, root: Path, later: dict[str, Any] | None = None) -> str:
    """What is said of a version that its gate refused, by the verdict in its manifest or a later one."""
    pointer = read_current_or_none(root)
    served = f"version {pointer['version']} is served as before" if pointer else "nothing is published"
    reason = (later or manifest.gate).get("reason", "see its verdict")
    place = Path(root) / FILE if later else manifest_path(root, manifest.version)
    return (
        f"version {manifest.version} did not pass its gate: {reason}. It is kept to be looked at, with the verdict in "
        f"{place}; {served}."
    )
