"""Vectors into neighbours: a sharded faiss inverted file, its metadata, and versions that are published whole."""

from index.build import IndexConfig, build_index
from index.checks import HeldOutQueries
from index.collect import collect_garbage
from index.collection import KINDS, Collection, Kind
from index.compact import MaintenanceConfig, compact_index, find_due_maintenance
from index.export import export_index
from index.foreign import import_index
from index.gate import GateConfig, make_gate
from index.live import HotReloader
from index.manifest import list_versions, read_current
from index.metadata import compute_key
from index.publish import RejectedError, override_gate, rollback, verify_version
from index.search import Index, IndexHit
from index.tags import add_tag, list_tags, remove_tag, resolve_version
from index.tune import exact_search
from index.update import IncompatibleUpdateError, update_index

__all__ = [
    "KINDS",
    "Collection",
    "GateConfig",
    "HeldOutQueries",
    "HotReloader",
    "IncompatibleUpdateError",
    "Index",
    "IndexConfig",
    "IndexHit",
    "Kind",
    "MaintenanceConfig",
    "RejectedError",
    "add_tag",
    "build_index",
    "collect_garbage",
    "compact_index",
    "compute_key",
    "exact_search",
    "export_index",
    "find_due_maintenance",
    "import_index",
    "list_tags",
    "list_versions",
    "make_gate",
    "override_gate",
    "read_current",
    "remove_tag",
    "resolve_version",
    "rollback",
    "update_index",
    "verify_version",
]
