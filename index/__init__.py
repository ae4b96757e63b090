"""Vectors into neighbours: a sharded faiss inverted file, its metadata, and versions that are published whole."""

from index.build import IndexConfig, build
from index.collection import KINDS, Collection, Kind
from index.manifest import current, versions
from index.metadata import key_of
from index.publish import RefusedError, rollback, verify
from index.search import Hit, Index
from index.tune import exact

__all__ = [
    "KINDS",
    "Collection",
    "Hit",
    "Index",
    "IndexConfig",
    "Kind",
    "RefusedError",
    "build",
    "current",
    "exact",
    "key_of",
    "rollback",
    "verify",
    "versions",
]
