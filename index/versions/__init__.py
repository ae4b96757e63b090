"""Versions of an index on disk: manifests, the published version, tags, events and garbage collection.

In: an index folder. Out: typed manifests and switches of the published version. It is independent of vectors: it
imports neither numpy nor faiss.
"""

from index.versions.calibration import ReliabilityBin, ScoreCalibration
from index.versions.events import Event, find_publication_time, read_events
from index.versions.folder import (
    Pointer,
    list_versions,
    manifest_path,
    read_current,
    read_pinned_version,
    read_version_manifest,
)
from index.versions.garbage import GarbageReport, collect_garbage
from index.versions.manifest import AlignmentInfo, CollectionManifest, Manifest, RecallReport
from index.versions.objects import iter_refs
from index.versions.switch import RejectedError, rollback, verify_version
from index.versions.tags import add_tag, list_tags, remove_tag, resolve_version
from index.versions.verdict import GateCheck, GateVerdict

__all__ = [
    "AlignmentInfo",
    "CollectionManifest",
    "Event",
    "GarbageReport",
    "GateCheck",
    "GateVerdict",
    "Manifest",
    "Pointer",
    "RecallReport",
    "RejectedError",
    "ReliabilityBin",
    "ScoreCalibration",
    "add_tag",
    "collect_garbage",
    "find_publication_time",
    "iter_refs",
    "list_tags",
    "list_versions",
    "manifest_path",
    "read_current",
    "read_events",
    "read_pinned_version",
    "read_version_manifest",
    "remove_tag",
    "resolve_version",
    "rollback",
    "verify_version",
]
