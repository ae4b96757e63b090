"""Sub-package `data.store`."""

from data.store.compact import compact_store
from data.store.loader import prefetch_map
from data.store.shard_file import write_shard
from data.store.store import Store
from data.store.verify import find_problems, unlist_damaged_shards
from data.store.writing import store_update

__all__ = [
    "Store",
    "compact_store",
    "find_problems",
    "prefetch_map",
    "store_update",
    "unlist_damaged_shards",
    "write_shard",
]
