"""Vectors into neighbours: a sharded faiss inverted file, its metadata, and versions that are published whole."""

from index.build import IndexConfig, build
from index.checks import Asked
from index.collect import collect
from index.collection import KINDS, Collection, Kind
from index.compact import Upkeep, compact, due
from index.export import export
from index.foreign import import_folder
from index.gate import GateConfig, gate_of
from index.live import Live
from index.manifest import current, versions
from index.metadata import key_of
from index.publish import RefusedError, override, rollback, verify
from index.search import Hit, Index
from index.tags import find, tag, tags, untag
from index.tune import exact
from index.update import GenerationError, update

__all__ = [
    "KINDS",
    "Asked",
    "Collection",
    "GateConfig",
    "GenerationError",
    "Hit",
    "Index",
    "IndexConfig",
    "Kind",
    "Live",
    "RefusedError",
    "Upkeep",
    "build",
    "collect",
    "compact",
    "current",
    "due",
    "exact",
    "export",
    "find",
    "gate_of",
    "import_folder",
    "key_of",
    "override",
    "rollback",
    "tag",
    "tags",
    "untag",
    "update",
    "verify",
    "versions",
]
