"""Vectors into neighbours: a sharded faiss inverted file, its metadata, and versions that are published whole."""

from index.build import IndexConfig, build
from index.collection import KINDS, Collection, Kind, key_of
from index.publish import current, rollback, verify, versions
from index.search import Hit, Index
from index.tune import exact

__all__ = [
    "KINDS",
    "Collection",
    "Hit",
    "Index",
    "IndexConfig",
    "Kind",
    "build",
    "current",
    "exact",
    "key_of",
    "rollback",
    "verify",
    "versions",
]
