"""Sub-package `data.manifest`."""

from data.manifest.manifest import open_or_create_store, read_store_manifest
from data.manifest.schema import Item, ShardPlan

__all__ = [
    "Item",
    "ShardPlan",
    "open_or_create_store",
    "read_store_manifest",
]
