"""Store manifests: a folder in, a typed list of its shards out; opens no shard and imports neither numpy nor h5py."""

from data.manifest.manifest import (
    InvalidItem,
    ShardEntry,
    StoreManifest,
    is_store,
    open_or_create_store,
    read_store_manifest,
    store_path,
)
from data.manifest.schema import Field, Item, Recipe, RowSource, ShardPlan, split_into_shards

__all__ = [
    "Field",
    "InvalidItem",
    "Item",
    "Recipe",
    "RowSource",
    "ShardEntry",
    "ShardPlan",
    "StoreManifest",
    "is_store",
    "open_or_create_store",
    "read_store_manifest",
    "split_into_shards",
    "store_path",
]
