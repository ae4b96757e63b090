"""Sub-package `index.versions`."""

from index.versions.events import read_events
from index.versions.folder import list_versions, manifest_path, read_current, read_version_manifest
from index.versions.garbage import collect_garbage
from index.versions.manifest import Manifest
from index.versions.objects import iter_refs
from index.versions.switch import RejectedError, rollback, verify_version
from index.versions.tags import add_tag, list_tags, remove_tag, resolve_version

__all__ = [
    "Manifest",
    "RejectedError",
    "add_tag",
    "collect_garbage",
    "iter_refs",
    "list_tags",
    "list_versions",
    "manifest_path",
    "read_current",
    "read_events",
    "read_version_manifest",
    "remove_tag",
    "resolve_version",
    "rollback",
    "verify_version",
]
