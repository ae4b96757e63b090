"""Feature and vector stores: rows of items in, rows by item id out; independent of images, text or models."""

from data.store.columns import Columns
from data.store.compact import check_removed_fraction, compact_store, list_foreign_files
from data.store.intact import CopyJob, copy_shard, read_intact_row_vectors, read_intact_vectors
from data.store.loader import Batch, iter_batches, prefetch_map
from data.store.regions import read_image_regions
from data.store.shard_file import Problem
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.token_counts import count_truncated, count_unknown
from data.store.verify import find_problems, unlist_damaged_shards, verify_store
from data.store.writing import ShardJob, commit, plan_shards, store_update

__all__ = [
    "Batch",
    "Columns",
    "CopyJob",
    "Problem",
    "ShardJob",
    "Store",
    "check_removed_fraction",
    "commit",
    "compact_store",
    "copy_shard",
    "count_truncated",
    "count_unknown",
    "find_problems",
    "iter_batches",
    "list_foreign_files",
    "plan_shards",
    "prefetch_map",
    "read_image_regions",
    "read_intact_row_vectors",
    "read_intact_vectors",
    "store_update",
    "unlist_damaged_shards",
    "verify_store",
    "write_shard",
]
